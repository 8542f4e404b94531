#!/usr/bin/env bash
# Prints the path of promtool on stdout, and nothing else. promtool checks and tests the alerts. It is taken from the PATH, or
# once from Debian's package prometheus. The package is unpacked and not installed, so no service starts.
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
    # Test programs run in parallel: one of them downloads it, the others wait.
    exec 9>"$folder.lock"
    flock 9
fi
if [[ ! -x $folder/promtool ]]; then
    echo "promtool: downloading Debian's package prometheus (20 MB) once, into $folder" >&2
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    # The first attempt fails if there are no package lists yet.
    if ! apt-get -qq download prometheus 2>"$work/said"; then
        ((EUID == 0)) || fail "the package prometheus cannot be downloaded ($(tail -n 1 "$work/said")): run as root: apt-get update"
        "$retry" apt-get -qq update >&2 || fail "the package lists cannot be updated; the error of apt-get is above"
        "$retry" apt-get -qq download prometheus >&2 || fail "the package prometheus cannot be downloaded; the error of apt-get is above"
    fi
    dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
    mv usr/bin/promtool "$folder/promtool"
fi
echo "$folder/promtool"
