#!/usr/bin/env bash
# Runs a command. Prints its purpose before, and how long it took afterwards.
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
