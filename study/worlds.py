"""The worlds of the study and the steps that apply in each."""

from __future__ import annotations

import json
from pathlib import Path

# Thresholds of the rules may be tuned on these only; the others are reported apart.
TUNED = ("support_short", "headroom", "over_sharpened", "strong_teacher")
UNSEEN = ("mixed", "forgetting_prone", "weak_teacher", "noisy_verifier")
# Made when rules and loop were frozen, to judge them by; docs/evidence.md says what was changed afterwards.
FRESH = ("mixed_small", "forgetting_large", "weak_teacher_mixed", "noisy_verifier_mixed")
WORLDS = (*TUNED, *UNSEEN, *FRESH)

# The steps of the study and the input that each needs.
STEPS = {
    "sft": "demos",
    "sft_replay": "demos",
    "rft": "",
    "rl": "",
    "imitate": "teacher",
    "distill": "teacher",
    "restore": "original",
}
# Steps that bring back what the base could, where there are anchors that tell whether it was lost.
REPAIRS = ("restore", "merge")
LONGEST = 3
# Steps worth taking twice in a row: more RL goes on from its own rollouts. Any other step's repetition is left out.
REPEATED = ("rl",)


def inputs_of(world: Path) -> dict[str, str]:
    """What a world's folder offers, by the names of a recipe's inputs."""
    named = {
        "base": "base",
        "problems": "problems.jsonl",
        "held_out": "held_out.jsonl",
        "demos": "demos.jsonl",
        "teacher": "teacher",
        "original": "original",
        "anchors": "anchors.jsonl",
    }
    return {name: str(world / file) for name, file in named.items() if (world / file).exists()}


def steps_of(world: Path) -> list[str]:
    """The steps that apply: their inputs are there."""
    inputs = inputs_of(world)
    return [step for step, needed in STEPS.items() if not needed or needed in inputs]


def facts_of(world: Path) -> dict[str, object]:
    """What the world says of itself."""
    facts: dict[str, object] = json.loads((world / "world.json").read_text(encoding="utf-8"))
    return facts


def children(path: tuple[str, ...], world: Path) -> list[tuple[str, ...]]:
    """Sequences one step longer."""
    if len(path) >= LONGEST:
        return []
    steps = steps_of(world)
    if path and "anchors" in inputs_of(world):
        steps += [step for step in REPAIRS if step not in steps]
    return [(*path, step) for step in steps if step in REPEATED or path[-1:] != (step,)]
