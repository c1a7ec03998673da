"""Twelve variations of Countdown, each with one bottleneck that is known because it was built in.

They are small enough that a training stage takes seconds on one core, so that every short sequence of stages can be
run in every world and a recommender's choice compared with the best of them (`study/`). What a policy can know is
decided by what was written under its pre-training prompts: `*` or not, how often right, in which order. All worlds
have the slices, the verifier and the truth of `posttrain.worlds.countdown`.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError, nearest
from posttrain.worlds.countdown import EASY, HARD, Problem, demonstrations, split, write_jsonl
from posttrain.worlds.countdown_base import Lesson, Pretraining, Size, pretrain

HELD_OUT = 192  # problems, shared evenly among the slices that a world is measured on
ANCHORS = 96
TEACHER_SEED = 1000  # added to the world's, so that a teacher of the same plan is another policy

SMALL = Size(hidden=64, intermediate=192, layers=2)  # 0.11M parameters
SMALLER = Size(hidden=48, intermediate=144, layers=2)
LARGER = Size(hidden=96, intermediate=256, layers=2)

# Knows every easy answer and has learned what makes it right, but seldom picks it.
HESITANT = Pretraining({EASY: Lesson(right=0.5)}, SMALL, steps=400, learning_rate=4e-3)
# Picks it most of the time.
FLUENT = replace(HESITANT, lessons={EASY: Lesson(right=0.8)})
# Goes on from a hesitant one and unlearns every answer whose digits are not in the prompt's order.
NARROWING = replace(HESITANT, lessons={EASY: Lesson(right=1.0, in_order=True)}, steps=150, learning_rate=2e-3)
# Repeated because there are fewer easy problems, and `+ -` answers are the harder to find.
KNOWING = Pretraining(
    {EASY: Lesson(right=1.0, times=3), HARD: Lesson(right=1.0, ops="+-*")}, LARGER, steps=800, learning_rate=3e-3
)


@dataclass(frozen=True)
class World:
    """One row of the table."""

    bottleneck: str
    because: str
    problems: Mapping[str, int] = field(default_factory=lambda: {EASY: 320, HARD: 320})
    """Slice → how many training problems."""
    held_out: tuple[str, ...] = (EASY, HARD)
    base: Pretraining = HESITANT
    demos: bool = False
    """Every answer to every hard problem that is not held out."""
    teacher: Pretraining | None = None
    narrowing: Pretraining | None = None
    """What happened to the base afterwards; before it, it was `original`."""
    anchors: bool = False
    """Easy problems, apart from all others."""
    lenient: bool = False
    """The training problems' verifier looks at the form only; the held-out ones' is right."""


_EASY_ONLY: Mapping[str, Any] = {"problems": {EASY: 320}, "held_out": (EASY,)}

WORLDS: Mapping[str, World] = {
    "support_short": World(
        "support",
        "hard problems need *, which the base never wrote; demonstrations have it",
        problems={EASY: 64, HARD: 320},
        held_out=(HARD,),
        demos=True,
    ),
    "headroom": World("reshaping", "the base writes every easy answer, but more wrong ones", **_EASY_ONLY),
    "mixed": World("support and reshaping", "easy answers are written too seldom, hard ones never", demos=True),
    "forgetting_prone": World(
        "support",
        "the base picks easy answers well and never wrote a hard one; demonstrations are hard only",
        base=FLUENT,
        demos=True,
        anchors=True,
    ),
    "over_sharpened": World(
        "over-sharpened",
        "the base was trained until it wrote digits in the prompt's order only, in which many problems have no answer",
        narrowing=NARROWING,
        **_EASY_ONLY,
    ),
    "weak_teacher": World(
        "reshaping", "as headroom; the teacher is the same policy of another seed", teacher=HESITANT, **_EASY_ONLY
    ),
    "strong_teacher": World(
        "support",
        "a small base never wrote *; a larger teacher was pre-trained on right answers of both slices",
        base=replace(HESITANT, size=SMALLER),
        teacher=KNOWING,
    ),
    "noisy_verifier": World(
        "evaluator fault", "as headroom; in training, any expression of the digits counts", lenient=True, **_EASY_ONLY
    ),
    # The same bottlenecks in other bodies, to judge rules by that were made with the worlds above in sight.
    "mixed_small": World(
        "support and reshaping",
        "as mixed, with a smaller base that picks easy answers less often, and half as many easy problems to train on",
        problems={EASY: 160, HARD: 320},
        base=replace(HESITANT, size=SMALLER, lessons={EASY: Lesson(right=0.35)}),
        demos=True,
    ),
    "forgetting_large": World(
        "support",
        "as forgetting_prone, with a larger base and fewer easy problems to keep what it knows by",
        problems={EASY: 160, HARD: 320},
        base=replace(FLUENT, size=LARGER),
        demos=True,
        anchors=True,
    ),
    "weak_teacher_mixed": World(
        "reshaping",
        "hard answers are out of reach and nothing brings them: the teacher is the same policy of another seed",
        teacher=HESITANT,
    ),
    "noisy_verifier_mixed": World(
        "evaluator fault", "as weak_teacher_mixed without the teacher; in training, any expression counts", lenient=True
    ),
}


def build(
    name: str,
    directory: str | Path,
    seed: int = 0,
    steps: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a world: `base/`, `problems.jsonl`, `held_out.jsonl`, `world.json`, and as it has them `demos.jsonl`,
    `teacher/`, `original/` and `anchors.jsonl`.

    The same seed gives the same bytes on the same kind of machine and version of torch.

    Args:
        steps: of every pre-training, instead of its own; 0 = its own.
        progress: called with the steps of a pre-training done and to do.

    Raises:
        ConfigError: no world has that name.
    """
    if name not in WORLDS:
        raise ConfigError(f"no world is called {name!r}{nearest(name, WORLDS)}")
    world, directory = WORLDS[name], Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    parts = _parts(world, seed)
    write_jsonl(directory / "problems.jsonl", [_lenient(p) if world.lenient else p.row() for p in parts.problems])
    write_jsonl(directory / "held_out.jsonl", [p.row() for p in parts.held_out])
    if world.anchors:
        write_jsonl(directory / "anchors.jsonl", [p.row() for p in parts.anchors])
    if world.demos:
        write_jsonl(directory / "demos.jsonl", demonstrations(parts.seen))
    for policy, plan, policy_seed, init in _policies(world, seed):
        plan = replace(plan, steps=steps or plan.steps)
        known = [problem for problem in parts.seen if problem.slice in plan.lessons]
        pretrain(directory / policy, known, plan, policy_seed, progress, directory / init if init else None)
    inputs = sorted(path.name for path in directory.iterdir() if path.name != "world.json")
    facts = {"name": name, "seed": seed, "bottleneck": world.bottleneck, "because": world.because, "inputs": inputs}
    (directory / "world.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return directory


@dataclass(frozen=True)
class _Parts:
    """Problems by use; `seen` are all that may be pre-trained on and demonstrated, `problems` some of them."""

    seen: Sequence[Problem]
    problems: Sequence[Problem]
    held_out: Sequence[Problem]
    anchors: Sequence[Problem]


def _parts(world: World, seed: int) -> _Parts:
    per_slice = HELD_OUT // len(world.held_out)
    whole = split(seed, per_slice + ANCHORS if world.anchors else per_slice)
    chance = random.Random(f"countdown bottlenecks {seed}")

    def some(of: Sequence[Problem], name: str, count: int) -> list[Problem]:
        return sorted(chance.sample([problem for problem in of if problem.slice == name], count))

    held_out = [problem for name in world.held_out for problem in some(whole.held_out, name, per_slice)]
    aside = set(whole.held_out) - set(held_out)
    return _Parts(
        seen=whole.train,
        problems=[problem for name, count in world.problems.items() for problem in some(whole.train, name, count)],
        held_out=held_out,
        anchors=sorted(problem for problem in aside if problem.slice == EASY),
    )


def _policies(world: World, seed: int) -> Iterator[tuple[str, Pretraining, int, str]]:
    """(directory, plan, seed, the policy to go on from or empty), in an order in which they can be made."""
    if world.narrowing:
        yield "original", world.base, seed, ""
        yield "base", world.narrowing, seed, "original"
    else:
        yield "base", world.base, seed, ""
    if world.teacher:
        yield "teacher", world.teacher, seed + TEACHER_SEED, ""


def _lenient(problem: Problem) -> dict[str, Any]:
    """The problem with a verifier that accepts any expression of its digits, whatever it makes."""
    digits = "".join(f"(?=(.*{digit}){{{count}}})" for digit, count in Counter(problem.numbers).items())
    return {**problem.row(), "verifier": "regex", "reference": {"pattern": rf"{digits}\d[-+*]\d[-+*]\d"}}
