#!/usr/bin/env bash
# Renews the lock of the Debian packages of the image. For every architecture it lists the newest packages of the release that
# the image uses, by name, version, architecture and hash. Does not change the apt of this host.
# Usage: image/lock.sh [OUTPUT]      OUTPUT: the lock; default: image/packages.lock
# APT_SOURCES=FILE  a sources.list(5) instead of the sources of this host, for a host that is not Debian 12
set -euo pipefail
output=$(realpath -m "${1:-$(dirname "$0")/packages.lock}")
cd "$(dirname "$0")/.."
. image/lib.sh

need apt-get=apt dpkg-deb=dpkg readelf=binutils
work=$PWD/target/image-lock
# The packages that the image needs. apt adds their dependencies.
wanted=(iptables base-files)
rm -rf "$work"

# lock ARCH: prints the lines for that architecture.
lock() {
    local name file
    apt_for "$1" "$work/$1/apt"
    apt-get -qq --simulate --no-install-recommends install "${wanted[@]}" >"$work/$1/simulated" 2>"$work/$1/said" ||
        fail "the sources of apt do not have ${wanted[*]} of Debian $release for $1, with their dependencies. If this host is not Debian 12, \
set APT_SOURCES to a sources.list of Debian 12.
$(<"$work/$1/said")$apt_said"
    sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) .*/\1 \2/p' "$work/$1/simulated" | download "$work/$1/debs"
    unpack "$work/$1/debs" "$work/$1/unpacked"
    stage "$work/$1/unpacked" "$work/$1/rootfs" | sort -u >"$work/$1/from"
    while read -r name; do
        file=$work/$1/debs/$name.deb
        keep "$file" "$(hash_of "$file")"
        echo "$(identity "$file") $(hash_of "$file")"
    done <"$work/$1/from"
}

mkdir -p "$cache/debian" "$work"
for arch in "${architectures[@]}"; do
    say "find the packages for $arch"
    lock "$arch" >>"$work/lines"
done
{
    echo "# The packages of Debian 12 ($release) in the image: name, version, architecture, SHA-256. Written by \`make image-lock\`."
    sort -u "$work/lines"
} >"$work/packages.lock"
if [[ -f $output ]] && cmp -s "$output" "$work/packages.lock"; then
    say "$output is up to date"
    exit
fi
[[ ! -f $output ]] || diff "$output" "$work/packages.lock" | grep '^[<>]' >&2 || true
mkdir -p "$(dirname "$output")"
cp "$work/packages.lock" "$output"
say "$output written: $(($(wc -l <"$output") - 1)) packages"
