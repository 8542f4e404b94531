#!/usr/bin/env bash
# Builds the image twice and checks it: both builds have the same digest, the image is small and contains only the expected
# files, scanners can read its contents, and the agent works in it with the capabilities of its pod. The image stays in
# target/image. Needs root.
# Usage: image/check.sh [--binary] [--lock FILE]
#   --binary  also compiles the agent again in a copy of the checkout (takes as long as a first build)
#   --lock    the list of packages; default: image/packages.lock
set -euo pipefail
binary='' lock=image/packages.lock
[[ ${1:-} != --binary ]] || { binary=yes && shift; }
[[ ${1:-} != --lock ]] || { lock=$(realpath "$2") && shift 2; }
(($# == 0)) || { sed -n 's/^# Usage: /usage: /p' "$0" >&2 && exit 2; }
cd "$(dirname "$0")/.."
. image/lib.sh

need readelf=binutils objcopy=binutils python3=python3 capsh=libcap2-bin openssl=openssl ip=iproute2 unshare=util-linux
((EUID == 0)) || fail "the check runs the agent in a network namespace: run it as root"
archive=target/image/portforward-operator.tar
again=$PWD/target/image-check
root=$again/root

# Unpacks the archive as a node does.
unpack_layers() {
    local layer
    rm -rf "$root" "$root.d"
    mkdir -p "$root"
    for layer in $(tar -xOf "$archive" manifest.json | python3 -c 'import json, sys; print(*json.load(sys.stdin)[0]["Layers"])'); do
        tar -xOf "$archive" "$layer" | tar -x --same-owner --same-permissions -C "$root"
    done
}

same() {
    [[ $1 == "$2" ]] || fail "$3: $(diff <(echo "$1") <(echo "$2") || true)"
}

# The only programs are the agent, iptables and the loader. There is no shell and no other tool.
only_these_programs() {
    local wanted found
    wanted=$(printf '%s\n' portforward-operator usr/sbin/xtables-{legacy,nft}-multi | sort)
    found=$(cd "$root" && find . -type f -perm /111 ! -name '*.so' ! -name '*.so.*' -printf '%P\n' | sort)
    same "$wanted" "$found" "the image contains other programs"
    wanted=$(printf '%s\n' iptables-{legacy,nft}{,-restore,-save} | sort)
    found=$(cd "$root/usr/sbin" && find . -type l -printf '%P\n' | sort)
    same "$wanted" "$found" "the image contains other names of programs"
    found=$(cd "$root" && find . ! -type f ! -type d ! -type l -o -perm /6000 -o ! -type l -perm /022 -o ! -uid 0 -o ! -gid 0)
    same "" "$found" "files that are setuid, writable by others, not owned by root, or not regular files"
    found=$(grep -rlIs '^#!' "$root" || true)
    same "" "$found" "the image contains scripts"
}

# crates FILE: names and versions from the section that cargo auditable writes, without crates that only the build uses.
crates() {
    python3 - "$1" <<'END' | sort -u
import json, sys, zlib
for crate in json.loads(zlib.decompress(open(sys.argv[1], "rb").read()))["packages"]:
    if crate.get("kind", "runtime") == "runtime":
        print(crate["name"], "v" + crate["version"])
END
}

# Scanners can read the release, the packages of the lock, and all crates of the agent that cargo lists. (The agent also lists
# some macro crates, which only generate code.)
scanners_see_everything() {
    local control wanted found
    grep -qx 'VERSION_ID="12"' "$root/etc/os-release" || fail "os-release does not say Debian 12"
    wanted=$(lines "$lock" "$arch" | cut -d ' ' -f -3 | sort)
    found=$(for control in "$root"/var/lib/dpkg/status.d/*; do
        sed -n 's/^\(Package\|Version\|Architecture\): //p' "$control" | paste -sd ' '
    done | sort)
    same "$wanted" "$found" "status.d and the lock differ"
    objcopy --dump-section ".dep-v0=$again/crates" "$root/portforward-operator" /dev/null || true
    [[ -s $again/crates ]] || fail "the agent does not list its crates"
    found=$(crates "$again/crates")
    wanted=$(cargo tree --locked --edges normal,no-proc-macro --target "$target" --prefix none --no-dedupe | cut -d ' ' -f -2 | sort -u)
    same "" "$(comm -23 <(echo "$wanted") <(echo "$found"))" "crates that the agent does not list"
    wanted=$(awk -F '"' '/^name = /{ name = $2 } /^version = /{ print name " v" $2 }' Cargo.lock | sort -u)
    same "" "$(comm -13 <(echo "$wanted") <(echo "$found"))" "crates that are not in Cargo.lock"
    say "  $(wc -l <<<"$found") crates, $(lines "$lock" "$arch" | wc -l) packages"
}

# The program contains nothing of the machine that built it.
no_traces() {
    local path
    for path in "$PWD/src" "$PWD/target" "${CARGO_HOME:-$HOME/.cargo}/" "$(rustc --print sysroot)"; do
        ! grep -qF "$path" "$root/portforward-operator" || fail "the agent contains the path $path"
    done
    same "" "$(needed "$root/portforward-operator")" "the agent is not linked statically"
}

# Compiles the agent again in another folder, without files of the first build.
compile_again() {
    local copy=$again/checkout
    mkdir -p "$copy"
    git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$copy"
    PORTFORWARD_COMMIT=${PORTFORWARD_COMMIT:-$(commit)} "$copy/image/build.sh" --lock "$lock" --output "$again/other"
    cmp "$root/portforward-operator" "$again/other/rootfs/portforward-operator" || fail "compiled in another folder, the agent differs"
    rm -rf "$copy"
}

arch=$(machine "$(uname -m)")
target=$(uname -m)-unknown-linux-gnu
rm -rf "$again"
mkdir -p "$again"
image/build.sh --lock "$lock"
say "build it again from an empty folder"
image/build.sh --lock "$lock" --output "$again/second" >/dev/null
cmp "$archive" "$again/second/portforward-operator.tar" || fail "the second build of the image differs from the first"
say "both builds are equal; check the contents"
unpack_layers
only_these_programs
scanners_see_everything
no_traces
for other in "${architectures[@]}"; do
    [[ $other == "$arch" ]] || { say "stage the packages for $other" && root_of "$lock" "$other" "$again/$other"; }
done
say "run it with the capabilities of its pod"
unshare --net --mount image/inside.sh "$root"
[[ -z $binary ]] || compile_again
rm -rf "$again"
say "the image passed all checks"
