#!/usr/bin/env bash
# The demo: build the Countdown world, post-train its base model by a recipe, print the table and the report's path.
set -euo pipefail
out=${1:-demo}
here=$(dirname "$0")
[ -d "$out/world" ] || posttrain world countdown --out "$out/world"
posttrain run sft-rl-distil --settings "$here/settings.yaml" \
  --base "$out/world/base" --problems "$out/world/problems.jsonl" \
  --held-out "$out/world/held_out.jsonl" --demos "$out/world/demos.jsonl" \
  --out "$out"
