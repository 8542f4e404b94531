#!/usr/bin/env bash
# Builds and checks the image for the tests on real nodes. After an update of Debian, the mirror no longer has some packages of
# the lock. This script then prints a warning and uses the current packages. `make image` fails in this case.
set -euo pipefail
cd "$(dirname "$0")/.."

image/check.sh && exit
fresh=target/fresh.lock
mkdir -p target
image/lock.sh "$fresh"
if cmp -s "$fresh" image/packages.lock; then
    echo "image: the mirror has all packages of the lock; the error is above" >&2
    exit 1
fi
echo "image: WARNING: the mirror no longer has all packages of image/packages.lock (make image-lock renews it):" >&2
diff image/packages.lock "$fresh" >&2 || true
echo "image: WARNING: the tests use $fresh" >&2
image/check.sh --lock "$fresh"
