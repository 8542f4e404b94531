#!/usr/bin/env bash
# Runs a command that downloads something. If it fails, runs it again, at most five times in all, with increasing pauses. A short
# outage of a proxy or mirror then does not abort a long build.
# Usage: hack/retry.sh command argument...
set -euo pipefail

status=0
for pause in 2 5 15 30 0; do
    status=0
    "$@" || status=$?
    ((status != 0)) || exit 0
    ((pause > 0)) || break
    echo "retry: exited with $status, retrying in $pause s: $*" >&2
    sleep "$pause"
done
exit "$status"
