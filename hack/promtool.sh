#!/usr/bin/env bash
# Prints the path of promtool, which checks and tests the alerts, and nothing else, on stdout: the one of the PATH, else one
# that is taken once out of Debian's package prometheus. The package is unpacked and not installed: no service starts.
# Usage: hack/promtool.sh
set -euo pipefail

retry=$(realpath "$(dirname "$0")")/retry.sh
cache=${XDG_CACHE_HOME:-$HOME/.cache}/portforward-operator
folder=$cache/promtool-$(uname -m)

fail() {
    echo "promtool: $*" >&2
    exit 1
}

if command -v promtool; then
    exit
fi
if [[ ! -x $folder/promtool ]]; then
    command -v apt-get >/dev/null || fail "promtool is missing: install Prometheus, or put promtool on the PATH"
    mkdir -p "$folder"
    # Test programs run side by side: one fetches, the others wait for it.
    exec 9>"$folder.lock"
    flock 9
fi
if [[ ! -x $folder/promtool ]]; then
    echo "promtool: fetching Debian's package prometheus (20 MB), once, for promtool; into $folder" >&2
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    # What it says at the first try may be that there are no package lists yet.
    if ! apt-get -qq download prometheus 2>"$work/said"; then
        ((EUID == 0)) || fail "the package prometheus cannot be fetched ($(tail -n 1 "$work/said")): run as root: apt-get update"
        "$retry" apt-get -qq update >&2 || fail "the package lists cannot be renewed; apt-get said above why"
        "$retry" apt-get -qq download prometheus >&2 || fail "the package prometheus cannot be fetched; apt-get said above why"
    fi
    dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
    mv usr/bin/promtool "$folder/promtool"
fi
echo "$folder/promtool"
