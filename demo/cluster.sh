#!/usr/bin/env bash
# Shows examples/bank-a-web.yaml with `kubectl apply`. A real etcd and kube-apiserver run in a network namespace. The agent runs on
# the proxy node with the rights of deploy/base. Sends requests in both directions. Removes everything at the end, also after a
# failure or Ctrl-C. Needs root, and Go to build the API server once. `make demo-cluster` installs everything else.
#
#   client 1.1.1.1 --- gateway 192.168.0.1 --- (eth1 192.168.0.2) proxy (eth0 2.2.2.2) --- server 3.3.3.3
#                                                    (mgmt 172.31.255.11)
#                                                             |
#                                               API server 172.31.255.1:6443
#
# IPTABLES=legacy uses the other variant. PROGRAM=path uses a program that is already built.
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=pf-democ-
hosts=(cli gw lan px srv cp)
logs=(agent.log etcd.log kube-apiserver.log)
. demo/lib.sh

api_server=172.31.255.1
etcd=http://127.0.0.1:2379

# The management network, through which the agent reaches the API server.
connect_management() {
    cable cp mgmt px mgmt
    net cp address add "$api_server/24" dev mgmt
    net px address add 172.31.255.11/24 dev mgmt
}

# start HOST NAME COMMAND...: starts a command in the background with its own log. Sets `started`.
start() {
    run "$1" "${@:3}" </dev/null >"$files/$2.out" 2>"$files/$2.log" &
    started=$!
}

start_api_server() {
    local options deadline=$((SECONDS + 120))
    openssl genrsa -out "$files/sa.key" 2048 2>/dev/null
    admin=$(openssl rand -hex 16)
    echo "$admin,admin,admin,system:masters" >"$files/tokens.csv"
    # fsync is not needed, because the data is temporary.
    start cp etcd "$programs/etcd" --data-dir "$files/etcd" --unsafe-no-fsync --log-level warn \
        --listen-client-urls "$etcd" --advertise-client-urls "$etcd" --listen-peer-urls http://127.0.0.1:2380 \
        --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster default=http://127.0.0.1:2380
    # The comma belongs to one option.
    # shellcheck disable=SC2054
    options=(
        --etcd-servers="$etcd" --cert-dir="$files/certificates" --token-auth-file="$files/tokens.csv"
        --bind-address=0.0.0.0 --secure-port=6443 --advertise-address="$api_server" --authorization-mode=Node,RBAC
        --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$files/sa.key"
        --service-account-signing-key-file="$files/sa.key" --service-cluster-ip-range=10.96.0.0/16
        --endpoint-reconciler-type=none
    )
    start cp kube-apiserver "$programs/kube-apiserver" "${options[@]}"
    until keep_authority && kubeconfig admin "$admin" && quiet get --raw /readyz >/dev/null 2>&1; do
        kill -0 "$started" 2>/dev/null || fail "the API server ended"
        ((SECONDS < deadline)) || fail "the API server was not ready within 120 s"
        sleep 0.2
    done
}

# Stores the CA of the self-made certificate of the API server: the last one in its file. Fails until the file exists.
keep_authority() {
    local chain=$files/certificates/apiserver.crt
    [[ -s $chain ]] && awk '/BEGIN/ { text = "" } { text = text $0 "\n" } END { printf "%s", text }' "$chain" >"$files/ca.crt"
}

# kubeconfig NAME TOKEN
kubeconfig() {
    cat >"$files/$1.kubeconfig" <<END
apiVersion: v1
kind: Config
current-context: demo
clusters: [{name: demo, cluster: {server: "https://$api_server:6443", certificate-authority: $files/ca.crt}}]
users: [{name: $1, user: {token: "$2"}}]
contexts: [{name: demo, context: {cluster: demo, user: $1, namespace: leased-lines}}]
END
}

# Run kubectl as administrator. `kubectl` also prints the command line.
quiet() { run cp env HOME="$files" KUBECONFIG="$files/admin.kubeconfig" "$programs/kubectl" "$@"; }
kubectl() {
    local word line='kubectl'
    for word in "$@"; do
        [[ $word != *[\{\"]* ]] || word="'$word'"
        line+=" $word"
    done
    printf '\n$ %s\n' "$line"
    quiet "$@" 2>&1
}

# Prints the rules and routes of the operator in the proxy's kernel. Empty chains, which may stay for a while, are left out.
ours() {
    run px "iptables-$iptables-save" | grep -E '^-A .*PF-' || true
    net px route show proto 154
}

wait_until_nothing_is_ours() {
    local deadline=$((SECONDS + 30))
    until [[ -z $(ours) ]]; do
        ((SECONDS < deadline)) || fail "this is still there after 30 s: $(ours)"
        sleep 0.1
    done
}

begin
say "Find etcd, kube-apiserver and kubectl, or build them (needs Go, and about 10 minutes the first time)"
programs=$(hack/kubernetes.sh)
build_program

say "The network: client 1.1.1.1 - gateway 192.168.0.1 - proxy 192.168.0.2 | 2.2.2.2 - server 3.3.3.3"
build_network
connect_management
serve srv TCP 3.3.3.3 80
serve cli TCP 1.1.1.1 80
wait_for_servers 2 srv cli

say "The API server starts (about 15 s)"
start_api_server

say "The namespace, the rights and the admission policy of the agents, and the CRD"
kubectl apply -f deploy/base/namespace.yaml -f deploy/base/rbac.yaml -f deploy/base/admission-policy.yaml -f crds
kubectl wait --for=condition=Established crd/portforwards.portforward.dev
# There is no kubelet that would create the Node.
quiet create -f - >/dev/null <<<'{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "proxy"}}'

say "The agent starts on the proxy, with a token that is bound to its Node"
kubeconfig agent "$(quiet create token portforward-operator --namespace portforward-system \
    --bound-object-kind Node --bound-object-name proxy)"
start px agent "$program" agent --node-name proxy --kubeconfig "$files/agent.kubeconfig" --namespace portforward-system \
    --state-dir "$files/state" --iptables "$iptables"

say "Before: no object, nothing is forwarded"
kubectl create namespace leased-lines
kubectl get pf
refused cli TCP 1.1.1.1 192.168.0.2 80 "no rule"

say "kubectl apply creates the forward"
kubectl apply -f examples/bank-a-web.yaml
kubectl wait --for=condition=Ready --timeout=60s pf/bank-a-web
kubectl get pf
kubectl get pf -o wide

say "The client reaches the server, which sees the proxy's external address"
show cli TCP 1.1.1.1 192.168.0.2 80 3.3.3.3 80 2.2.2.2
say "The server reaches the client, which sees the proxy's internal address"
show srv TCP 3.3.3.3 2.2.2.2 8443 1.1.1.1 80 192.168.0.2

say "Disabled: the rules and routes are removed, the object stays"
kubectl patch pf bank-a-web --type merge --patch '{"spec": {"mode": "Disabled"}}'
kubectl wait --for=condition=Ready --timeout=60s pf/bank-a-web
kubectl get pf
[[ -z $(ours) ]] || fail "the kernel still has: $(ours)"
refused cli TCP 1.1.1.1 192.168.0.2 80 "disabled"

say "Enabled again"
kubectl patch pf bank-a-web --type merge --patch '{"spec": {"mode": "Enabled"}}'
kubectl wait --for=condition=Ready --timeout=60s pf/bank-a-web
show cli TCP 1.1.1.1 192.168.0.2 80 3.3.3.3 80 2.2.2.2

say "Each change of the summary is an event"
kubectl get events

say "Deleted: the kernel has nothing of the forward any more"
kubectl delete pf bank-a-web
wait_until_nothing_is_ours
refused cli TCP 1.1.1.1 192.168.0.2 80 "deleted"
