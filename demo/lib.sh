# Functions of the demos: create the network of the example in namespaces, send requests through it, and remove everything.
# The script that sources this runs in the root of the repository, uses `set -euo pipefail`, and sets `prefix` (of all names that it
# creates), `hosts` (the namespaces to create) and `logs` (the logs to print after a failure).
#
#   client 1.1.1.1 --- gateway 192.168.0.1 --- (eth1 192.168.0.2) proxy (eth0 2.2.2.2) --- server 3.3.3.3
#
# IPTABLES=legacy uses the other variant. PROGRAM=path uses a program that is already built.
# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # the sourcing script sets prefix, hosts and logs, and uses iptables and program

iptables=${IPTABLES:-nft}
id=$prefix$$

run() { nsenter --net="/run/netns/$id-$1" -- "${@:2}"; } # run HOST COMMAND...
net() { run "$1" ip "${@:2}"; }                        # net HOST ARGUMENTS OF ip...
say() { printf '\n==> %s\n' "$*"; }

# Removes the namespaces of one run and stops the processes in them.
remove() {
    local name pids
    for name in $(ip netns list | awk -v id="$1-" 'index($1, id) == 1 { print $1 }'); do
        pids=$(ip netns pids "$name")
        # shellcheck disable=SC2086 # one word for each process
        [[ -z $pids ]] || kill -KILL $pids 2>/dev/null || true
        ip netns delete "$name" || true
    done
}

show_logs() {
    local log
    for log in "${logs[@]}"; do
        [[ -s $files/$log ]] || continue
        say "The last lines of $log"
        # Leave out informational lines of the API server.
        grep -vE '^I[0-9]|Skipping API' "$files/$log" | tail -n 40 || true
    done
}

finish() {
    local status=$?
    trap - EXIT
    trap '' INT TERM
    # Output may be redirected when the signal arrives.
    exec >&3
    if ((status != 0)); then show_logs; fi
    exec 2>/dev/null # hides the shell's messages about killed processes
    remove "$id"
    rm -rf "$files"
    if ((status == 0)); then say "The demo has removed everything that it created"; else say "The demo failed ($status) and has removed everything that it created"; fi
    exit "$status"
}

fail() {
    echo "demo: $*" >&2
    exit 1
}

cable() { # cable HOST LINK HOST LINK
    ip link add "$2" netns "$id-$1" type veth peer name "$4" netns "$id-$3"
    net "$1" link set "$2" up
    net "$3" link set "$4" up
}

build_network() {
    local host key
    for host in "${hosts[@]}"; do
        ip netns add "$id-$host"
        net "$host" link set lo up
        for key in all default; do
            run "$host" bash -c "echo 0 >/proc/sys/net/ipv4/conf/$key/rp_filter"
        done
    done
    for host in gw px; do
        run "$host" bash -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
    done

    net gw link add line type bridge
    net gw link set line up
    cable cli eth0 gw cli
    cable lan eth0 gw lan
    cable px eth1 gw px
    cable px eth0 srv eth0
    net gw link set lan master line
    net gw link set px master line

    net cli address add 1.1.1.1/24 dev eth0
    net cli address add 1.1.1.2/24 dev eth0
    net cli route add local 10.7.0.0/16 dev lo
    net cli route add default via 1.1.1.254
    net gw address add 1.1.1.254/24 dev cli
    net gw address add 192.168.0.1/24 dev line
    net gw route add 10.7.0.0/16 via 1.1.1.1
    net lan address add 192.168.0.9/24 dev eth0
    net px address add 192.168.0.2/24 dev eth1
    net px address add 2.2.2.2/24 dev eth0
    net px route add default via 2.2.2.1
    net srv address add 2.2.2.1/24 dev eth0
    net srv address add 3.3.3.3/32 dev lo
    net srv address add 3.3.3.4/32 dev lo
}

# serve HOST PROTOCOL ADDRESS PORT: answers each request with its source address.
serve() {
    # The single quotes are intended: the child of socat expands the variable.
    # shellcheck disable=SC2016
    case $2 in
    TCP) set -- "$1" -U "TCP-LISTEN:$4,bind=$3,fork,reuseaddr" 'SYSTEM:echo "$SOCAT_PEERADDR"' ;;
    UDP) set -- "$1" "UDP-RECVFROM:$4,bind=$3,fork" 'SYSTEM:read -r _; echo "$SOCAT_PEERADDR"' ;;
    esac
    run "$1" socat "${@:2}" </dev/null 2>>"$files/servers.log" &
}

# wait_for_servers COUNT HOST...: waits until COUNT sockets are bound on these hosts.
wait_for_servers() {
    local host deadline=$((SECONDS + 60))
    until (($(for host in "${@:2}"; do run "$host" ss -Hlntu; done | wc -l) >= $1)); do
        ((SECONDS < deadline)) || fail "the servers did not start: $(cat "$files/servers.log")"
        sleep 0.1
    done
}

# ask HOST PROTOCOL FROM TO PORT: prints the source address that the server saw, or nothing after two seconds.
ask() {
    case $2 in
    TCP) run "$1" timeout 3 socat -u "TCP:$4:$5,bind=$3,connect-timeout=2" - 2>/dev/null || true ;;
    UDP) echo | run "$1" timeout 3 socat -t 2 -T 2 - "UDP:$4:$5,bind=$3" 2>/dev/null || true ;;
    esac
}

# Repeats the request until there is an answer, for at most a minute. On a busy machine an answer may take long.
ask_until_answered() {
    local answer deadline=$((SECONDS + 60))
    until answer=$(ask "$@") && [[ -n $answer ]]; do
        ((SECONDS < deadline)) || break
    done
    echo "$answer"
}

# show HOST PROTOCOL FROM TO PORT SERVER SERVERPORT SEEN: sends a request and prints each hop. Fails if the server saw another
# source address.
show() {
    local host=$1 protocol=$2 from=$3 to=$4 port=$5 server=$6 server_port=$7 expected=$8 saw entry
    saw=$(ask_until_answered "$host" "$protocol" "$from" "$to" "$port")
    entry=$(run px conntrack -L -p "${protocol,,}" --orig-src "$from" --orig-dst "$to" --orig-port-dst "$port" 2>/dev/null | tail -n 1)
    printf '\n'
    printf '  %-8s%s connects to %s:%s/%s\n' "from" "$from" "$to" "$port" "${protocol,,}"
    printf '  %-8s%s\n' "proxy" "$(translation <<<"$entry")"
    printf '  %-8s%s:%s answers and saw %s\n' "to" "$server" "$server_port" "${saw:-nothing}"
    [[ $saw == "$expected" ]] || fail "the server should have seen $expected"
}

# Prints a line of conntrack(8) as source and destination before and after the proxy.
translation() {
    awk '{ n = 0
           for (i = 1; i <= NF; i++) if (split($i, p, "=") == 2 && p[1] ~ /^(src|dst|sport|dport)$/) v[n++] = p[2]
           if (n < 8) { print "no translation"; exit }
           printf "%s:%s -> %s:%s  becomes  %s:%s -> %s:%s\n", v[0], v[2], v[1], v[3], v[5], v[7], v[4], v[6] }'
}

# refused HOST PROTOCOL FROM TO PORT WHY: sends a request and fails if there is an answer.
refused() {
    local saw
    saw=$(ask "$1" "$2" "$3" "$4" "$5")
    printf '\n  %s connects to %s:%s/%s: %s (%s)\n' "$3" "$4" "$5" "${2,,}" "${saw:-no answer}" "$6"
    [[ -z $saw ]] || fail "there should be no answer"
}

# Sends requests until there is an answer: then the forward works.
wait_for_forward() {
    local deadline=$((SECONDS + 120))
    until [[ -n $(ask cli TCP 1.1.1.1 192.168.0.2 80) ]]; do
        kill -0 "$1" 2>/dev/null || fail "the agent ended"
        ((SECONDS < deadline)) || fail "the forward did not work within 120 s"
        sleep 0.1
    done
}

# Checks for root, creates a folder for files, and removes everything at the end, also after a failure or a signal.
begin() {
    local left
    ((EUID == 0)) || fail "network namespaces need root: run it with sudo"
    files=$(mktemp -d "/tmp/$id.XXXXXX")
    export XTABLES_LOCKFILE=$files/xtables.lock
    exec 3>&1
    trap finish EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # Remove the namespaces of demos that were killed.
    for left in $(ip netns list | sed -n "s/^$prefix\([0-9]*\)-.*/\1/p" | sort -u); do
        [[ -d /proc/$left ]] || remove "$prefix$left"
    done
}

# Sets `program`.
build_program() {
    program=${PROGRAM:-}
    if [[ -z $program ]]; then
        hack/step.sh "Compile the operator (minutes the first time)" cargo build --locked
        program=${CARGO_TARGET_DIR:-target}/debug/portforward-operator
    fi
}
