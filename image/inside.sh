#!/usr/bin/env bash
# Runs the agent in the root of the image as its pod does: read-only, uid 0, no_new_privs, and only the named capabilities, in
# its own network and mount namespaces. The parts that a real kubelet adds (seccomp, the pod's volumes) are missing.
# Usage: unshare --net --mount image/inside.sh ROOT      called by check.sh; files to mount into ROOT are in ROOT.d
set -euo pipefail
cd "$(dirname "$0")/.."
. image/lib.sh
root=$(realpath "$1")
given=$root.d
# After a failure, no agent stays behind.
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

# become CAPABILITIES PROGRAM ARGUMENT...: replaces this shell with the program.
become() {
    local drop
    drop=$(capsh --decode=ffffffffffffffff | sed 's/.*=//' | tr , '\n' | grep '^cap_' | grep -vxF "$(tr , '\n' <<<"$1")" | paste -sd,)
    exec env -i PATH=/usr/sbin:/ capsh --chroot="$root" --drop="$drop" --no-new-privs --shell="$2" -- "${@:3}"
}

in_image() { (become "$@"); }

operator() { in_image "$1" /portforward-operator "${@:2}"; }

# The mounts of a container runtime and of the manifests, with their mount points.
mounts() {
    mkdir -p "$given" "$root"/{dev,proc,run,etc/portforward,var/lib/portforward-operator}
    touch "$root"/{dev/null,run/xtables.lock,etc/hosts,etc/resolv.conf} "$given/lock"
    echo "127.0.0.1 localhost api.hosts.test" >"$given/hosts"
    echo "nameserver 127.0.0.1" >"$given/resolv.conf"
    # Any certificate: the check is only that the agent connects.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=check -days 1 \
        -keyout /dev/null -out "$given/authority.pem" 2>/dev/null
    cp -r examples "$given/manifests"
    mount --make-rprivate /
    mount --bind "$root" "$root"
    mount -t tmpfs -o mode=0755 tmpfs "$root/var/lib/portforward-operator"
    mount --bind "$given" "$root/etc/portforward"
    mount --bind "$given/hosts" "$root/etc/hosts"
    mount --bind "$given/resolv.conf" "$root/etc/resolv.conf"
    mount --bind "$given/lock" "$root/run/xtables.lock"
    mount --bind /dev/null "$root/dev/null"
    mount -t proc proc "$root/proc"
    mount --bind "$root/proc/sys" "$root/proc/sys"
    mount -o remount,bind,ro "$root/proc/sys"
    mount -o remount,bind,ro "$root"
}

# The proxy node of the examples.
network() {
    local link
    echo 1 >/proc/sys/net/ipv4/ip_forward
    ip link set lo up
    ip link add eth0 type veth peer far0
    ip link add eth1 type veth peer far1
    ip address add 2.2.2.2/24 dev eth0
    ip address add 192.168.0.2/24 dev eth1
    for link in eth0 far0 eth1 far1; do
        ip link set "$link" up
    done
    ip route add default via 2.2.2.1
}

# eventually COMMAND...: runs the command until it succeeds, for at most 20 seconds.
eventually() {
    local until=$((SECONDS + 20))
    until "$@"; do
        ((SECONDS < until)) || return 1
        sleep 0.2
    done
}

# rules VARIANT CAPABILITIES: prints all rules, and all chains except the built-in ones.
rules() { in_image "$2" "/usr/sbin/iptables-$1-save" | sed -n '/^-/p; /^:[^ ]* - /p'; }

holds_examples() { operator "$1" status --node-name check >"$given/status" 2>&1; }

# life VARIANT CAPABILITIES: runs the agent on the examples, then cleanup.
life() {
    local agent before foreign='-p vrrp -m statistic --mode nth --every 2 --packet 0 -j RETURN'
    say "  $1 with $2: load, agent, status, cleanup"
    printf '%s\n' '*nat' "-A POSTROUTING $foreign" COMMIT | in_image "$2" "/usr/sbin/iptables-$1-restore" --noflush
    before=$(rules "$@")
    [[ $before == *"-A POSTROUTING $foreign"* ]] || fail "a rule of another program is not printed as on a host: $before"
    become "$2" /portforward-operator agent --manifests /etc/portforward/manifests --node-name check --iptables "$1" >"$given/log" 2>&1 &
    agent=$!
    eventually holds_examples "$2" || fail "the kernel does not hold the examples: $(cat "$given/log" "$given/status")"
    [[ $(rules "$@") == *'--to-destination 3.3.3.3:80'* ]] || fail "iptables-$1-save shows no rule of the examples: $(rules "$@")"
    kill "$agent"
    wait "$agent" || fail "after SIGTERM the agent ended with $?: $(<"$given/log")"
    operator "$2" cleanup --node-name check >/dev/null
    [[ $(rules "$@") == "$before" ]] || fail "cleanup left other rules than before: $(diff <(echo "$before") <(rules "$@"))"
}

# reaches NAME: the agent connects to an API server with this host name.
reaches() {
    local agent
    say "  an API server at $1"
    cat >"$given/kubeconfig" <<END
{apiVersion: v1, kind: Config, current-context: check, contexts: [{name: check, context: {cluster: check, user: check}}],
users: [{name: check, user: {token: check}}],
clusters: [{name: check, cluster: {server: "https://$1:6443", certificate-authority: authority.pem}}]}
END
    become cap_net_admin /portforward-operator agent --kubeconfig /etc/portforward/kubeconfig --node-name check \
        --iptables nft >"$given/log" 2>&1 &
    agent=$!
    python3 image/listen.py 6443 || fail "the agent did not connect: $(<"$given/log")"
    kill "$agent"
    wait "$agent" || fail "after SIGTERM the agent ended with $?: $(<"$given/log")"
}

mounts
network
! in_image cap_net_admin /bin/sh -c true 2>/dev/null || fail "the image contains a shell"
! touch "$root/written" 2>/dev/null || fail "the root file system is writable"
say "  $(operator cap_net_admin --version)"
life nft cap_net_admin
life legacy cap_net_admin,cap_net_raw
reaches api.hosts.test
reaches api.dns.test
