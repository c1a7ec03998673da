#!/usr/bin/env bash
# The demo: build the Countdown world, say what holds its base model back, and follow that advice up to the gate.
set -euo pipefail
out=${1:-demo}
here=$(dirname "$0")
world="$out/world"
[ -d "$world" ] || posttrain world countdown --out "$world"
rm -rf "$out/diagnosis"
posttrain diagnose --model "$world/base" --problems "$world/held_out.jsonl" --demos "$world/demos.jsonl" \
  --out "$out/diagnosis" --set evaluate.samples=64 --set evaluate.max_new_tokens=6 --set evaluate.batch_rows=2048
posttrain improve --rounds 3 --settings "$here/improve.yaml" \
  --base "$world/base" --problems "$world/problems.jsonl" \
  --held-out "$world/held_out.jsonl" --demos "$world/demos.jsonl" \
  --out "$out"
