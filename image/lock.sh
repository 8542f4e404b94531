#!/usr/bin/env bash
# Renews the lock of the Debian packages in the image: the newest of the release, by name, version, architecture and hash, for
# every architecture; exactly those from which the image takes something. Touches nothing of this host's apt.
# Usage: image/lock.sh [OUTPUT]      OUTPUT: the lock, image/packages.lock where absent
# APT_SOURCES=FILE  a sources.list(5) to use in place of this host's, for a host that is no Debian 12
set -euo pipefail
output=$(realpath -m "${1:-$(dirname "$0")/packages.lock}")
cd "$(dirname "$0")/.."
. image/lib.sh

need apt-get=apt dpkg-deb=dpkg readelf=binutils
work=$PWD/target/image-lock
# The packages from which the image takes something; apt names those that they need.
wanted=(iptables base-files)
rm -rf "$work"

# lock ARCH: its lines.
lock() {
    local name file
    apt_for "$1" "$work/$1/apt"
    apt-get -qq --simulate --no-install-recommends install "${wanted[@]}" >"$work/$1/simulated" 2>"$work/$1/said" ||
        fail "the sources of apt do not have ${wanted[*]} of Debian $release for $1, with what they need. Is this a Debian 12? \
Elsewhere, name a sources.list of it: APT_SOURCES=FILE.
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
    say "look for the packages of $arch"
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
