#!/usr/bin/env bash
# Shows the forwards of examples/. Client, gateway, proxy node and servers are network namespaces, and the agent runs on the
# proxy node. Sends requests in both directions and prints the addresses that each side saw. Removes everything at the end, also
# after a failure or Ctrl-C. Needs root. `make demo` installs everything else.
#
#   client 1.1.1.1 --- gateway 192.168.0.1 --- (eth1 192.168.0.2) proxy (eth0 2.2.2.2) --- server 3.3.3.3
#
# IPTABLES=legacy uses the other variant. PROGRAM=path uses a program that is already built.
set -euo pipefail
cd "$(dirname "$0")/.."

prefix=pf-demo-
hosts=(cli gw lan px srv)
logs=(agent.log)
. demo/lib.sh

begin
build_program

say "The network: client 1.1.1.1 - gateway 192.168.0.1 - proxy 192.168.0.2 | 2.2.2.2 - server 3.3.3.3"
build_network
serve srv TCP 3.3.3.3 80
serve srv TCP 3.3.3.4 80
serve srv UDP 3.3.3.4 514
serve srv TCP 3.3.3.3 5042
serve cli TCP 1.1.1.1 80
serve cli TCP 1.1.1.2 443
serve lan TCP 192.168.0.9 9100
wait_for_servers 7 srv cli lan

say "Before: nothing is forwarded"
refused cli TCP 1.1.1.1 192.168.0.2 80 "no rule"

say "The agent reads examples/ ($(grep -h '^  name:' $(grep -l 'kind: PortForward$' examples/*.yaml) | awk '{ print $2 }' | paste -s -d ' '))"
run px "$program" agent --manifests examples --node-name proxy --state-dir "$files/state" --status-file "$files/status.json" \
    --iptables "$iptables" >"$files/agent.out" 2>"$files/agent.log" </dev/null &
wait_for_forward $!

say "bank-a-web: the client reaches the server, which sees the proxy's external address"
show cli TCP 1.1.1.1 192.168.0.2 80 3.3.3.3 80 2.2.2.2
say "bank-a-web: the server reaches the client, which sees the proxy's internal address"
show srv TCP 3.3.3.3 2.2.2.2 8443 1.1.1.1 80 192.168.0.2
say "bank-b-web: without an external address, the server sees an address of the node (MASQUERADE)"
show cli TCP 1.1.1.2 192.168.0.2 8081 3.3.3.4 80 2.2.2.2
say "bank-a-syslog: UDP"
show cli UDP 1.1.1.1 192.168.0.2 514 3.3.3.4 514 2.2.2.2
say "branches: a host of 10.7.0.0/16, and a port of a range"
show cli TCP 10.7.3.4 192.168.0.2 5042 3.3.3.3 5042 2.2.2.2
say "bank-b-callback: the upstream connects to the client, on the port that reverse names"
show srv TCP 3.3.3.4 2.2.2.2 9443 1.1.1.2 443 192.168.0.2
say "bank-a-printer: one leg, packets enter and leave by the same interface"
show cli TCP 1.1.1.1 192.168.0.2 9100 192.168.0.9 9100 192.168.0.2

say "Nothing else is forwarded"
refused lan TCP 192.168.0.9 192.168.0.2 80 "another host on the line"
refused srv TCP 3.3.3.4 2.2.2.2 8443 "a port that reverse does not name"

say "The status that the agent prints"
cat "$files/agent.out"
say "The rules and routes in the proxy's kernel (iptables-$iptables-save, ip route)"
run px "iptables-$iptables-save" | grep -E '^\*|PF-' || true
net px route show
