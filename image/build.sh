#!/usr/bin/env bash
# Builds the image from locked Debian packages and the agent. Stages it in OUTPUT/rootfs and packs it as
# OUTPUT/portforward-operator.tar (a docker archive). Two builds of one commit on one machine have the same digest.
# Usage: image/build.sh [--arch amd64|arm64] [--lock FILE] [--output DIR]
#   --arch    the architecture; default: that of this machine
#   --lock    the list of packages; default: image/packages.lock
#   --output  the output folder; default: target/image
# BUILDER=buildah|podman|docker    the program that packs the image; default: the first one that is installed
# CARGO_BUILD_TARGET=TRIPLE        the target of Rust; default: GNU/Linux of the architecture. It also sets the architecture
# PORTFORWARD_COMMIT=NAME          the commit that --version prints; default: the commit of the checkout
# APT_SOURCES=FILE                 a sources.list(5) for the packages, instead of the sources of this host
set -euo pipefail
limit=13000000
name=localhost/portforward-operator

usage() { sed -n 's/^# Usage: /usage: /p' "${BASH_SOURCE[0]}" >&2 && exit 2; }

arch='' lock='' out=''
while (($#)); do
    [[ -n ${2:-} ]] || usage
    case $1 in
    --arch) arch=$2 ;;
    --lock) lock=$(realpath -m "$2") ;;
    --output) out=$(realpath -m "$2") ;;
    *) usage ;;
    esac
    shift 2
done
cd "$(dirname "$0")/.."
. image/lib.sh
lock=${lock:-$PWD/image/packages.lock}
out=${out:-$PWD/target/image}
[[ -f $lock ]] || fail "$lock does not exist"
version=$(sed -n '/^\[package\]/,/^\[dep/s/^version = "\(.*\)"/\1/p' Cargo.toml)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0}

arch=${arch:-$(machine "${CARGO_BUILD_TARGET:-$(uname -m)}")}
target=${CARGO_BUILD_TARGET:-$(machine "$arch")-unknown-linux-gnu}
[[ $(machine "$target") == "$arch" ]] || fail "--arch $arch and CARGO_BUILD_TARGET=$target contradict each other"

builder=${BUILDER:-$(basename "$(command -v buildah || command -v podman || command -v docker || echo buildah)")}
need apt-get=apt dpkg-deb=dpkg readelf=binutils flock=util-linux cargo=cargo cc=gcc make=make "$builder=$builder"

# What Rust needs in addition, to compile for another architecture.
need_target() {
    local variable
    [[ -d $(rustc --print sysroot)/lib/rustlib/$target/lib ]] ||
        fail "this Rust cannot compile for $target: run rustup target add $target"
    [[ $target != *-gnu || $target == "$(rustc -vV | sed -n 's/^host: //p')" ]] && return
    variable=CARGO_TARGET_$(tr a-z- A-Z_ <<<"$target")_LINKER
    export "$variable=${!variable:-$(machine "$arch")-linux-gnu-gcc}"
    command -v "${!variable}" >/dev/null || fail "the linker ${!variable} for $target is missing; \
on Debian: apt-get install gcc-$(machine "$arch" | tr _ -)-linux-gnu libc6-dev-$arch-cross; or set $variable to another linker"
}

# Installs cargo-auditable. It writes the list of all crates into the program, for scanners.
auditable() {
    local version=0.7.7
    local folder=$cache/cargo-auditable-$version
    if [[ ! -x $folder/bin/cargo-auditable ]]; then
        hack/step.sh "Install cargo-auditable $version into $folder (a minute)" \
            hack/retry.sh env -u CARGO_BUILD_TARGET -u RUSTFLAGS cargo install --quiet --locked --root "$folder" "cargo-auditable@$version"
    fi
    PATH=$folder/bin:$PATH
}

# agent FOLDER: compiles the program for the target in FOLDER and prints its path. It is linked statically, so that it runs
# with any C library, in the image and on a host. It contains no path of this machine.
agent() {
    local flags=(
        -C target-feature=+crt-static
        "--remap-path-prefix=$PWD=/src"
        "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
        "--remap-path-prefix=$(rustc --print sysroot)=/rust"
    )
    # Kernels for arm64 have pages of up to 64 KiB, and the allocator takes the size of this machine otherwise.
    [[ $arch != arm64 ]] || export JEMALLOC_SYS_WITH_LG_PAGE=16
    CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && echo "${flags[*]}") hack/step.sh "Compile the agent for $target (minutes the first time)" \
        cargo auditable build --locked --release --bin portforward-operator --target "$target" --target-dir "$1" >&2
    echo "$1/$target/release/portforward-operator"
}

# pack: packs OUTPUT/rootfs as an image in OUTPUT/new.tar.
pack() {
    local tag=$name:$version
    local arguments=(
        --quiet --file image/Containerfile --tag "$tag" --platform "linux/$arch"
        --build-arg "VERSION=$version" --build-arg "COMMIT=${PORTFORWARD_COMMIT:-unknown}"
    )
    # A separate storage that needs no mounts, and the same time for all files.
    local storage=(--root "$out/storage" --runroot "$out/storage/run" --storage-driver vfs)
    local fixed=(--identity-label=false --layers=false --isolation chroot --timestamp "$SOURCE_DATE_EPOCH")
    case $builder in
    buildah)
        buildah "${storage[@]}" build "${fixed[@]}" "${arguments[@]}" "$out/rootfs" >/dev/null
        buildah "${storage[@]}" push --quiet "$tag" "docker-archive:$out/new.tar:$tag"
        ;;
    podman)
        podman "${storage[@]}" build "${fixed[@]}" "${arguments[@]}" "$out/rootfs" >/dev/null
        podman "${storage[@]}" save --quiet --format docker-archive --output "$out/new.tar" "$tag"
        ;;
    docker)
        docker build "${arguments[@]}" "$out/rootfs" >/dev/null
        docker save --output "$out/new.tar" "$tag"
        ;;
    *) fail "BUILDER is $builder; use buildah, podman or docker" ;;
    esac
}

mkdir -p "$out"
exec 9>"$out/.lock"
flock 9
need_target
auditable
PORTFORWARD_COMMIT=${PORTFORWARD_COMMIT:-$(commit)}
[[ -z $PORTFORWARD_COMMIT ]] || export PORTFORWARD_COMMIT

say "stage the packages of ${lock#"$PWD/"} for $arch"
root_of "$lock" "$arch" "$out"
program=$(agent "$PWD/target/image-build")
install "$program" "$out/rootfs/portforward-operator"
install -D -m 0644 LICENSE "$out/rootfs/usr/share/doc/portforward-operator/copyright"
chmod -R u=rwX,go=rX "$out/rootfs"
find "$out/rootfs" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +

say "pack the image with $builder"
rm -rf "$out/new.tar" "$out/storage"
pack
rm -rf "$out/storage" "$out/debs" "$out/unpacked"
compressed=$(gzip -n <"$out/new.tar" | wc -c)
((compressed <= limit)) || fail "the image has $compressed bytes compressed; the limit is $limit ($out/new.tar)"
mv "$out/new.tar" "$out/portforward-operator.tar"
cat <<END
image       $name:$version, linux/$arch
archive     ${out#"$PWD/"}/portforward-operator.tar
id          $(image_id "$out/portforward-operator.tar")
compressed  $compressed bytes
END
