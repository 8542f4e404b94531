#!/usr/bin/env bash
# Runs the tests several times while other processes keep every core busy, and prints which runs failed and in which tests.
# Tests that pass only by luck on an idle machine fail here. Removes all its processes, namespaces and cgroups, also after Ctrl-C.
# Usage: hack/repeat.sh [--times N] [--busy N] [--logs DIR] [-- COMMAND ARGUMENT...]
#   --times   the number of runs; default: 5
#   --busy    the number of processes that keep the machine busy; default: the number of cores; 0: none
#   --logs    the folder for the log of each run; default: target/repeat
#   COMMAND   what to run instead of `make test` and `make e2e`, such as: cargo test --locked --test gitops
# Exit status: 0 every run passed, 1 a run failed, 2 wrong usage, 130 interrupted (the summary is printed too).
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

# Keeps a core busy until the process $1 has ended.
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

# session ID: prints the running processes of a session, one per line.
session() { ps -o pid= -s "$1" 2>/dev/null || true; }

# end_session ID: stops a session with SIGTERM, and after ten seconds with SIGKILL.
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

# Removes namespaces and cgroups of test processes and demos that have ended, and stops the processes in them.
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

# failed LOG: prints the failed tests that the test programs list at the end, or the failed step if there are none.
failed() {
    local names
    names=$(awk '/^failures:$/ { inside = 1; next } /^test result/ { inside = 0 } inside && /^    [^ ]+$/ { print $1 }' "$1" | sort -u)
    [[ -n $names ]] || names=$(grep -E '^==> .*: exited with' "$1" | tail -n 1 || true)
    echo "${names:-no test is named: see $1}"
}

running='' results=()
# run NUMBER COMMAND ARGUMENT...: one run, in its own session.
run() {
    local log status=0 begun=$SECONDS shown=$SECONDS result
    log=$logs/$1-$(tr -cs 'a-zA-Z0-9' - <<<"${*:2}" | cut -c 1-60 | sed 's/-*$//').log
    say "run $1 of $times: ${*:2} > $log"
    rm -f "$logs/session"
    # The single quotes are intended: the inner shell expands the variables.
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

# Stops the rest of the run.
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
    ((status < 128)) || say "interrupted; stopping the current run"
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
