#!/usr/bin/env bash
# Prints the folder with the Python packages of the tests on stdout, for PYTHONPATH, and nothing else. Installs them once from
# tests/python/requirements.txt, which pins each package by its hash. Does not change the Python of the system.
set -euo pipefail
cd "$(dirname "$0")/../tests/python"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/portforward-operator

fail() {
    echo "python: $*" >&2
    exit 1
}

command -v python3 >/dev/null || fail "python3 is missing: install the packages python3 and python3-pip"
# Some packages are compiled for one version of Python.
folder=$cache/python-$(cat requirements.txt <(python3 --version) | sha256sum | cut -c 1-16)
if [[ ! -d $folder ]]; then
    python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip: install the package python3-pip"
    mkdir -p "$cache"
    # Test programs run in parallel: one of them installs, the others wait.
    exec 9>"$folder.lock"
    flock 9
    if [[ ! -d $folder ]]; then
        echo "python: installing the packages of the tests once, into $folder" >&2
        rm -rf "$folder.new"
        ../../hack/retry.sh python3 -m pip install --quiet --root-user-action ignore --disable-pip-version-check --require-hashes \
            --upgrade --target "$folder.new" -r requirements.txt >&2 || fail "pip could not install the packages; its error is above"
        mv "$folder.new" "$folder"
    fi
fi
echo "$folder"
