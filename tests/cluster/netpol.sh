#!/bin/bash
# Network policies enforced on a one-node cluster whose network does not: kube-network-policies, run on the node.
#   netpol.sh up [ADDRESS|RANGE …]   only packets of these pods are looked at; default 10.244.0.0/24, every pod
#   netpol.sh down
# Needs root, Go, ipset, iptables, curl, kubectl with KUBECONFIG. It holds for all policies of the pods that it looks at.
#
# Its own nftables rules need the kernel's NFT_QUEUE. Where that is missing ("no such file or directory" in its log),
# iptables' NFQUEUE gives it the same packets: the first of each connection, after a service's address became a pod's.
# INPUT is for what runs on the node itself, as S3 and the API server of such a cluster do.
set -euo pipefail
WORK=${NETPOL_HOME:-/tmp/netpol} QUEUE=100 SET=posttrain-netpol VERSION=v0.8.0 ACCOUNT=kube-network-policies

rules() { # -A or -D
  local seen="-m conntrack --ctstate NEW -m set --match-set $SET" queue="-j NFQUEUE --queue-num $QUEUE --queue-bypass"
  iptables -t mangle "$1" POSTROUTING $seen src $queue
  # Not what the node's root starts: kubelet's probes.
  iptables -t mangle "$1" POSTROUTING $seen dst -m owner ! --uid-owner 0 $queue
  iptables -t mangle "$1" INPUT $seen src $queue
}

up() {
  mkdir -p "$WORK/account"
  [ -x "$WORK/cmd" ] ||
    GOBIN=$WORK CGO_ENABLED=0 nice -n 10 go install -trimpath "sigs.k8s.io/kube-network-policies/cmd@$VERSION"
  kubectl create serviceaccount $ACCOUNT -n kube-system --dry-run=client -o yaml | kubectl apply -f - >/dev/null
  kubectl create clusterrolebinding $ACCOUNT --clusterrole=view --serviceaccount=kube-system:$ACCOUNT \
    --dry-run=client -o yaml | kubectl apply -f - >/dev/null
  kubectl create token $ACCOUNT -n kube-system --duration 8h > "$WORK/account/token"
  kubectl get configmap kube-root-ca.crt -n kube-system -o 'jsonpath={.data.ca\.crt}' > "$WORK/account/ca.crt"
  ipset create $SET hash:net
  for address in "${@:-10.244.0.0/24}"; do ipset add $SET "$address"; done
  # It looks for its account where a pod's is: there for it alone.
  KUBERNETES_SERVICE_HOST=$(kubectl get service kubernetes -o 'jsonpath={.spec.clusterIP}') KUBERNETES_SERVICE_PORT=443 \
    setsid unshare -m bash -c "at=/var/run/secrets/kubernetes.io/serviceaccount
      mkdir -p \$at && mount --bind '$WORK/account' \$at &&
      exec '$WORK/cmd' -nfqueue-id $QUEUE -disable-nri -netfilter-bug-1766-fix=false -metrics-bind-address 127.0.0.1:9080 -v 2" \
    > "$WORK/log" 2>&1 < /dev/null &
  echo $! > "$WORK/pid"
  for _ in $(seq 60); do
    grep -q "^ *$QUEUE " /proc/net/netfilter/nfnetlink_queue && break
    kill -0 "$(cat "$WORK/pid")" || { tail -n 5 "$WORK/log"; exit 1; }
    sleep 0.5
  done
  rules -A
  echo "enforced for ${*:-10.244.0.0/24}; log: $WORK/log"
}

down() {
  while rules -D 2>/dev/null; do :; done
  if [ -f "$WORK/pid" ]; then kill -INT -- "-$(cat "$WORK/pid")" 2>/dev/null || true; rm -f "$WORK/pid"; fi
  ipset destroy $SET 2>/dev/null || true
  kubectl delete clusterrolebinding $ACCOUNT --ignore-not-found >/dev/null
  kubectl delete serviceaccount $ACCOUNT -n kube-system --ignore-not-found >/dev/null
  rmdir -p /var/run/secrets/kubernetes.io/serviceaccount 2>/dev/null || true
}

case "${1:-}" in
up) shift; down; up "$@" ;;
down) down ;;
*) sed -n 's/^# \?//p' "$0" | head -n 5; exit 2 ;;
esac
