#!/usr/bin/env bash
# Runs a command that fetches something, again where it fails: five times at most, with longer and longer pauses. A proxy or
# a mirror that is away for a moment then does not end a build of half an hour.
# Usage: hack/retry.sh command argument...
set -euo pipefail

status=0
for pause in 2 5 15 30 0; do
    status=0
    "$@" || status=$?
    ((status != 0)) || exit 0
    ((pause > 0)) || break
    echo "retry: exited with $status, again in $pause s: $*" >&2
    sleep "$pause"
done
exit "$status"
