#!/bin/bash
# Brings Kubeflow Trainer's controller and JobSet onto the cluster of KUBECONFIG, built from the Go module proxy, for
# clusters that reach no image registry. Idempotent.
#   trainer.sh FOLDER           FOLDER: where it builds
#   MKIMAGE="cmd"               cmd NAME OUT.tar --user U --entrypoint PROGRAM FILE:PATH writes an image archive …
#   LOAD="cmd"                  … and cmd OUT.tar brings it onto the nodes
set -euo pipefail
TRAINER=2.2.0
JOBSET=0.11.1
B=$1
mkdir -p "$B/bin" "$B/apply"
cd "$B"
[ -f go.mod ] || printf 'module trainer\n\ngo 1.25\n' > go.mod
moddir() { go mod download -json "$1" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p'; }
T=$(moddir github.com/kubeflow/trainer/v2@v$TRAINER)
J=$(moddir sigs.k8s.io/jobset@v$JOBSET)

build() { # NAME FOLDER PACKAGE TAG
  [ -x "$B/bin/$1" ] || (cd "$2" && CGO_ENABLED=0 nice -n 10 go build -p 1 -trimpath -ldflags "-s -w" -o "$B/bin/$1" "$3")
  [ -f "$B/$1.tar" ] || $MKIMAGE "localhost/$1:$4" "$B/$1.tar" --user 65532 --entrypoint /manager "$B/bin/$1:/manager"
  $LOAD "$B/$1.tar" > /dev/null
}
build jobset "$J" . v$JOBSET
build trainer "$T" ./cmd/trainer-controller-manager v$TRAINER

# Trainer's overlay takes JobSet from a release's URL: here it is a copy beside it.
rm -rf apply && mkdir apply && cp -r "$J/config" apply/jobset && cp -r "$T/manifests" apply/trainer && chmod -R u+w apply
sed -i '/third-party/d' apply/trainer/overlays/manager/kustomization.yaml
mkdir apply/all && echo 'resources: [../jobset/default, ../trainer/overlays/manager]' > apply/all/kustomization.yaml
kubectl kustomize apply/all | sed -e "s#image: .*/jobset:.*#image: localhost/jobset:v$JOBSET#" -e 's/cpu: 500m/cpu: 50m/' \
  -e "s#image: .*/trainer-controller-manager:.*#image: localhost/trainer:v$TRAINER#" > apply/all.yaml
kubectl apply --server-side --force-conflicts -f apply/all.yaml > applied.log
kubectl -n jobset-system rollout status deploy/jobset-controller-manager --timeout=300s
kubectl -n kubeflow-system rollout status deploy/kubeflow-trainer-controller-manager --timeout=300s
# The webhook answers a moment after its pod is ready.
for _ in $(seq 60); do
  kubectl apply --server-side -f apply/trainer/base/runtimes/torch_distributed.yaml 2> refused.log && exit 0
  sleep 2
done
cat refused.log >&2
exit 1
