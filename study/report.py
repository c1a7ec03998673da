"""Writes `docs/evidence.md` from the stored rows: `make evidence`. Nothing is trained."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from posttrain.diagnosis.rules import RuleTable, rule_table
from posttrain.recipes.compose import step
from study.roles import RoleCase, cases
from study.score import (
    FIXED,
    ROUNDS,
    Loop,
    Tree,
    chance,
    improved,
    load,
    oracle,
    relative,
    relative_interval,
    static_tree,
    unrevised,
    worth_of_blind_oracle,
    worth_of_oracle,
)
from study.worlds import FRESH, TUNED, UNSEEN, WORLDS

RESULTS = Path(__file__).parent / "results"
EARLIER = Path(__file__).parent / "earlier_rules.yaml"
EVIDENCE = Path(__file__).parent.parent / "docs" / "evidence.md"
# Group → its worlds and seeds.
GROUPS = {
    "tuned on": (TUNED, range(3)),
    "not tuned on": (UNSEEN, range(3)),
    "other worlds": (FRESH, range(3)),
    "new seeds": (WORLDS, range(3, 10)),
}
WORST = 8  # trees that the page goes through

HEAD = """# Does the recommender choose well?

Measured by `study/` in {worlds} small worlds whose bottleneck is known because it was built in, with {trees} trees
(a world and a seed each): every sequence of up to three steps was run through the real stages from the same base,
{policies} policies in all. Everything here is computed from the rows in `study/results` (`make evidence`); nothing
is cited.

**How a sequence is scored.** The mean of pass@1 and pass@64 on held-out problems (the exam half); if it lost more
than two points of pass@1 on the anchors, it is worth what the base was. The recommender sees the other half (the
probe) only. The *oracle* is the best sequence of the tree. *Regret* is how much less a choice is worth, as a share
of what the oracle gains over the base, over all trees of a group; intervals resample trees.

**Who chooses.** *improve* is the loop that `posttrain improve` runs: diagnose, take the recommended step, measure,
keep it or roll it back, up to {rounds} rounds and three steps kept. *Rules alone* takes every recommended step and
never looks back. *Fixed* are sequences that do not look at the model. The *static tree* asks only what data there
is.

**What was tuned where.** Thresholds were set by the worlds *tuned on* alone. How rules and loop are built was
changed after the worlds *not tuned on* had been looked at: rollback and provisional steps (motivated by those tuned
on), and two rules of retention instead of one (by forgetting_prone). With that frozen (`study/earlier_rules.yaml`)
the *other worlds* were looked at for the first time; the row *improve, rules of before* is that first look, the
fairest number for a world that nobody has seen. Then D19 and the RL of D18 were added. The *new seeds*, of worlds
known before, were run and looked at when everything was final.
"""

Way = Callable[[Tree], tuple[str, ...]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="only say whether the page is what the rows give")
    text = evidence(load(RESULTS))
    if parser.parse_args().check:
        sys.exit(0 if EVIDENCE.read_text(encoding="utf-8") == text else f"{EVIDENCE}: out of date; run make evidence")
    EVIDENCE.write_text(text, encoding="utf-8")
    print(EVIDENCE)


def evidence(trees: Sequence[Tree]) -> str:
    """The page."""
    loops = {id(tree): improved(tree) for tree in trees}
    groups = {
        name: chosen
        for name, (worlds, seeds) in GROUPS.items()
        if (chosen := [tree for tree in trees if tree.world in worlds and tree.seed in seeds])
    }
    head = HEAD.format(
        worlds=len({tree.world for tree in trees}),
        trees=len(trees),
        policies=sum(len(tree.taken()) for tree in trees),
        rounds=ROUNDS,
    )
    parts = [
        head,
        _regret_section(groups, loops),
        _compute_section(groups, loops),
        _world_section(groups, loops),
        _wrong_section(trees, loops),
        _role_section(trees, loops),
    ]
    return "\n".join(parts)


def _regret_section(groups: dict[str, list[Tree]], loops: dict[int, Loop]) -> str:
    ways: dict[str, Way] = {
        "**improve** (rules, measured, kept or rolled back)": lambda tree: loops[id(tree)].path,
        "improve, rules of before": lambda tree: improved(tree, table=_earlier_rules()).path,
        "rules alone": lambda tree: unrevised(tree),
        "static tree": static_tree,
        **{f"fixed: {name}": lambda tree, path=path: tree.walk(path) for name, path in FIXED.items()},  # type: ignore[misc]
        "nothing: the base": lambda tree: (),
    }
    rows = []
    for name, choose in ways.items():
        rows.append([name, *(_regret(chosen, choose) for chosen in groups.values())])
    rows.append(["a sequence at random", *(_share(_random(chosen), _gains(chosen)) for chosen in groups.values())])
    bars = []
    for name, chosen in groups.items():
        gain = _gains(chosen)
        own = relative(_regrets(chosen, lambda tree: loops[id(tree)].path), gain)
        fixed = {what: relative(_regrets(chosen, lambda t, p=p: t.walk(p)), gain) for what, p in FIXED.items()}  # type: ignore[misc]
        best = min(fixed, key=lambda what: fixed[what])
        blind = worth_of_blind_oracle
        honest = relative(_regrets(chosen, lambda tree: loops[id(tree)].path, blind), _gains(chosen, blind))
        bars.append([name, f"{own:.1%}", f"{best}: {fixed[best]:.1%}", f"{own / fixed[best]:.2f}", f"{honest:.1%}"])
    heads = ["worlds", "improve", "best fixed recipe, in hindsight", "ratio", "improve, oracle of other problems"]
    columns = ["who chooses", *(f"{name} ({len(chosen)} trees)" for name, chosen in groups.items())]
    return f"""## Regret

{_table(columns, rows)}

The fixed recipe that is best in hindsight is chosen for each group by its result, which nobody can do beforehand.

{_table(heads, bars)}

The oracle is the largest of many noisy measurements, so part of any regret is luck that no one could have had. In the
last column the oracle is chosen on one half of the exam problems and scored on the other, and the other way round.
"""


def _compute_section(groups: dict[str, list[Tree]], loops: dict[int, Loop]) -> str:
    rows = []
    for name, chosen in groups.items():
        own = [loops[id(tree)] for tree in chosen]
        spent = [
            sum(tree.rows[path]["step_seconds"] for path in loop.made) for tree, loop in zip(chosen, own, strict=True)
        ]
        measured = [
            sum(tree.rows[path]["measure_seconds"] for path in [(), *loop.made])
            for tree, loop in zip(chosen, own, strict=True)
        ]
        oracle_s = [tree.seconds(oracle(tree)) for tree in chosen]
        every = [sum(row.get("step_seconds", 0.0) for row in tree.rows.values()) for tree in chosen]
        fixed = [tree.seconds(tree.walk(FIXED["SFT with replay → RL"])) for tree in chosen]
        rounds = [len(loop.made) for loop in own]
        cells = [np.mean(rounds), *(np.mean(x) for x in (spent, measured, fixed, oracle_s, every))]
        rows.append([name, f"{cells[0]:.1f}", *(f"{cell:.0f}" for cell in cells[1:])])
    columns = [
        "worlds",
        "steps tried",
        "s, improve",
        "s, measuring",
        "s, SFT with replay → RL",
        "s, oracle's steps",
        "s, all",
    ]
    return f"""## Compute

Seconds of one core for the steps that were taken, those rolled back included; the last column is what finding the
oracle cost.

{_table(columns, rows)}

All trees together took {_hours(groups):.1f} hours of one core, measuring included (two at a time, beside other work).
"""


def _hours(groups: dict[str, list[Tree]]) -> float:
    rows = [row for trees in groups.values() for tree in trees for row in tree.rows.values()]
    return float(sum(row.get("step_seconds", 0.0) + row.get("measure_seconds", 0.0) for row in rows)) / 3600


def _world_section(groups: dict[str, list[Tree]], loops: dict[int, Loop]) -> str:
    rows = []
    for group, chosen in groups.items():
        for world in dict.fromkeys(tree.world for tree in chosen):
            trees = [tree for tree in chosen if tree.world == world]
            paths = Counter("/".join(loops[id(tree)].path) or "stop" for tree in trees)
            worths = [
                [f(tree) for tree in trees] for f in (_base, lambda t: t.worth(loops[id(t)].path), worth_of_oracle)
            ]
            opening = Counter(loops[id(tree)].said[0]["rule"] for tree in trees)
            rows.append(
                [
                    world,
                    group,
                    ", ".join(f"{rule} × {n}" for rule, n in opening.items()),
                    ", ".join(f"{path} × {n}" for path, n in paths.items()),
                    *(_spread(values) for values in worths),
                ]
            )
    columns = ["world", "group", "first rule", "improve ended with", "base", "improve", "oracle"]
    return f"""## By world

Worth, mean over seeds [least, largest].

{_table(columns, rows)}
"""


@cache
def _earlier_rules() -> RuleTable:
    return RuleTable.model_validate(yaml.safe_load(EARLIER.read_text(encoding="utf-8")))


def _base(tree: Tree) -> float:
    return tree.worth(())


def _wrong_section(trees: Sequence[Tree], loops: dict[int, Loop]) -> str:
    by_regret = sorted(trees, key=lambda tree: tree.worth(loops[id(tree)].path) - tree.worth(oracle(tree)))
    rows = []
    for tree in by_regret[:WORST]:
        loop, best = loops[id(tree)], oracle(tree)
        walk = "; ".join(f"{turn['rule']} {turn['next'] or 'stop'} ({turn.get('fate', 'end')})" for turn in loop.said)
        rows.append(
            [
                f"{tree.world}-{tree.seed}",
                f"{tree.worth(best) - tree.worth(loop.path):.3f}",
                f"{'/'.join(loop.path) or 'base'} {_numbers(tree, loop.path)}",
                f"{'/'.join(best) or 'base'} {_numbers(tree, best)}",
                walk,
            ]
        )
    columns = ["tree", "regret", "improve (pass@1, pass@64)", "oracle", "what was said and done"]
    return f"""## Where it is wrong

The {WORST} trees in which most was left behind.

{_table(columns, rows)}
"""


def _numbers(tree: Tree, path: tuple[str, ...]) -> str:
    lost = "" if tree.kept(path) else ", anchors lost"
    return f"({tree.rate(path, 1):.3f}, {tree.rate(path, 64):.3f}{lost})"


def _role_section(trees: Sequence[Tree], loops: dict[int, Loop]) -> str:
    taken = [
        case
        for tree in trees
        for case in cases(tree, loops[id(tree)].made, [t["rule"] for t in loops[id(tree)].said if "fate" in t])
    ]
    every = [case for tree in trees for case in cases(tree, [path for path in tree.taken() if path])]
    rows = [
        [what, len(found), sum(c.as_intended is None for c in found), *_agreement(found)]
        for what, found in (("steps that improve took", taken), ("every step of every sequence", every))
    ]
    others = [
        [f"{c.tree}", "/".join(c.path), str(c.intended), " + ".join(c.measured) or "none", c.verdict]
        for c in taken
        if c.as_intended is False
    ]
    by_step = [
        [step(name).title, *_agreement([case for case in every if case.path[-1] == name])]
        for name in dict.fromkeys(case.path[-1] for case in every)
    ]
    bound = f"{rule_table().thresholds['always_fail'].value:.0%}"
    return f"""## Intended and measured role

What a step was meant to do against what it measurably did on the exam half, where the evidence decides. An expansion
step where less than {bound} of the problems are out of reach is meant to reshape.

{_table(["which", "cases", "undecided", "decided", "as intended", "share"], [_with_totals(row) for row in rows])}

Every sequence includes those that nobody would take (RL with nothing within reach, a weak teacher): there a step often
does not do what it is for. By step:

{_table(["step", "as intended", "share of decided"], by_step)}

Those of `improve` that did something else:

{_table(["tree", "steps", "meant", "measured", "finding"], others)}
"""


def _agreement(found: Sequence[RoleCase]) -> list[str]:
    decided = [case for case in found if case.as_intended is not None]
    right = sum(case.as_intended is True for case in decided)
    return [str(right), f"{right / len(decided):.0%} of {len(decided)}" if decided else "–"]


def _with_totals(row: list[object]) -> list[str]:
    what, total, open_, right, share = row
    return [str(what), str(total), str(open_), str(int(str(total)) - int(str(open_))), str(right), str(share)]


def _regrets(trees: Sequence[Tree], choose: Way, best: Callable[[Tree], float] = worth_of_oracle) -> np.ndarray:
    return np.array([best(tree) - tree.worth(choose(tree)) for tree in trees])


def _gains(trees: Sequence[Tree], best: Callable[[Tree], float] = worth_of_oracle) -> np.ndarray:
    return np.array([best(tree) - tree.worth(()) for tree in trees])


def _regret(trees: Sequence[Tree], choose: Way) -> str:
    return _share(_regrets(trees, choose), _gains(trees))


def _random(trees: Sequence[Tree]) -> np.ndarray:
    return np.array([worth_of_oracle(tree) - chance(tree) for tree in trees])


def _share(regret: np.ndarray, gain: np.ndarray) -> str:
    low, high = relative_interval(regret, gain)
    return f"{relative(regret, gain):.1%} [{low:.1%}, {high:.1%}]"


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    main()
