#!/usr/bin/env bash
# Runs the tests several times while other processes keep every core busy, and sums up which runs failed and in which tests:
# what passes on a quiet machine by luck fails here. Leaves no process, namespace or cgroup behind, after Ctrl-C either.
# Usage: hack/repeat.sh [--times N] [--busy N] [--logs DIR] [-- COMMAND ARGUMENT...]
#   --times   how often, 5 where absent
#   --busy    how many processes keep the machine busy, as many as it has cores where absent, 0 for none
#   --logs    where the log of each run goes, target/repeat where absent
#   COMMAND   what to run in place of `make test` and `make e2e`, such as: cargo test --locked --test gitops
# Exit status: 0 every run passed, 1 one did not, 2 usage, 130 interrupted (the runs so far are summed up as well).
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n 's/^# Usage: /usage: /p' "${BASH_SOURCE[0]}" >&2 && exit 2; }

times=5 busy=$(nproc) logs=target/repeat command=()
while (($#)); do
    case $1 in
    --) shift && command=("$@") && (($#)) && break || usage ;;
    --times | --busy | --logs) [[ -n ${2:-} ]] || usage ;;&
    --times) times=$2 ;;
    --busy) busy=$2 ;;
    --logs) logs=$2 ;;
    *) usage ;;
    esac
    shift 2
done
[[ $times =~ ^[1-9][0-9]*$ && $busy =~ ^[0-9]+$ ]] || usage

say() { echo "repeat: $*"; }

# A whole core, until the process $1 is gone.
spin() {
    local turn
    trap - EXIT INT TERM
    while kill -0 "$1" 2>/dev/null; do
        for ((turn = 0; turn < 100000; turn++)); do :; done
    done
}

spinning=()
keep_busy() {
    local number
    for ((number = 0; number < busy; number++)); do
        spin $$ &
        spinning+=($!)
    done
}

# session ID: the processes of a session that still run, one a line.
session() { ps -o pid= -s "$1" 2>/dev/null || true; }

# end_session ID: ends a session in order, and by force what is left after ten seconds.
end_session() {
    local signal deadline
    for signal in TERM KILL; do
        deadline=$((SECONDS + 10))
        while [[ -n $(session "$1") ]] && ((SECONDS < deadline)); do
            # shellcheck disable=SC2046 # one word for each process
            kill "-$signal" $(session "$1") 2>/dev/null || true
            sleep 0.2
        done
    done
}

# Removes the namespaces of test processes and demos that are gone, with all that runs in them, and their cgroups.
sweep() {
    local name owner pids folder
    for name in $(ip netns list 2>/dev/null | awk '/^pf-/ { print $1 }'); do
        owner=$(grep -oE '[0-9]+' <<<"$name" | head -n 1 || true)
        [[ -n $owner && ! -d /proc/$owner ]] || continue
        pids=$(ip netns pids "$name" 2>/dev/null || true)
        # shellcheck disable=SC2086 # one word for each process
        [[ -z $pids ]] || kill -KILL $pids 2>/dev/null || true
        ip netns delete "$name" 2>/dev/null || true
    done
    for folder in /sys/fs/cgroup/pf-* /sys/fs/cgroup/*/pf-*; do
        owner=$(grep -oE 'pf-[0-9]+' <<<"$folder" | cut -c 4- || true)
        [[ -d $folder && -n $owner && ! -d /proc/$owner ]] || continue
        find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
}

# failed LOG: the tests that failed, as they are named at the end of each test program; else the step that did.
failed() {
    local names
    names=$(awk '/^failures:$/ { inside = 1; next } /^test result/ { inside = 0 } inside && /^    [^ ]+$/ { print $1 }' "$1" | sort -u)
    [[ -n $names ]] || names=$(grep -E '^==> .*: exited with' "$1" | tail -n 1 || true)
    echo "${names:-no test by name: see $1}"
}

running='' results=()
# run NUMBER COMMAND ARGUMENT...: one run, in a session of its own.
run() {
    local log status=0 begun=$SECONDS shown=$SECONDS result
    log=$logs/$1-$(tr -cs 'a-zA-Z0-9' - <<<"${*:2}" | cut -c 1-60 | sed 's/-*$//').log
    say "run $1 of $times: ${*:2} > $log"
    rm -f "$logs/session"
    # The single quotes are right: the inner shell expands them.
    # shellcheck disable=SC2016
    setsid --wait bash -c 'echo $$ >"$0"; exec "$@"' "$logs/session" "${@:2}" >"$log" 2>&1 </dev/null &
    running=$!
    while kill -0 "$running" 2>/dev/null; do
        sleep 1
        if ((SECONDS - shown >= 60)); then
            shown=$SECONDS
            say "  $((SECONDS - begun)) s, $(grep -cE '^(test .* )?ok$' "$log" || true) tests passed"
        fi
    done
    wait "$running" || status=$?
    finish_running
    if ((status == 0)); then
        result="passed  $((SECONDS - begun)) s  ${*:2}"
    else
        result="FAILED  $((SECONDS - begun)) s  ${*:2}: $(failed "$log" | paste -sd ' ')"
    fi
    results+=("run $1  $result")
    say "$result"
}

# Ends what is left of the run.
finish_running() {
    [[ -n $running ]] || return 0
    [[ ! -s $logs/session ]] || end_session "$(<"$logs/session")"
    rm -f "$logs/session"
    running=''
    sweep
}

finish() {
    local status=$? line bad=0
    trap - EXIT
    trap '' INT TERM
    ((status < 128)) || say "interrupted; ending what runs"
    finish_running
    ((${#spinning[@]} == 0)) || kill "${spinning[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    ((${#results[@]})) || exit "$status"
    echo
    say "with $busy busy processes on $(nproc) cores:"
    for line in "${results[@]}"; do
        echo "  $line"
        [[ $line != *FAILED* ]] || bad=$((bad + 1))
    done
    say "$((${#results[@]} - bad)) of ${#results[@]} runs passed"
    ((status != 0)) || ((bad == 0)) || status=1
    exit "$status"
}

mkdir -p "$logs"
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
keep_busy
for ((number = 1; number <= times; number++)); do
    if ((${#command[@]})); then
        run "$number" "${command[@]}"
    else
        run "$number" make test
        run "$number" make e2e
    fi
done
