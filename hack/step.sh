#!/usr/bin/env bash
# Runs a command and says what it is for, before, and how long it took, after.
# Usage: hack/step.sh "What it does" command argument...
set -euo pipefail

name=$1
shift
echo "==> $name"
started=$SECONDS
status=0
"$@" || status=$?
if ((status == 0)); then
    echo "==> $name: done in $((SECONDS - started)) s"
else
    echo "==> $name: exited with $status after $((SECONDS - started)) s: $*" >&2
fi
exit "$status"
