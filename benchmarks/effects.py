"""What every stage does to the quantity it is for, over several seeds: the table of docs/effects.md.

    PYTHONPATH=. python benchmarks/effects.py [--seeds 5] [--only WORD] [--write]

An effect is a function in `tests/effects/of_*.py`; `make test` holds its margin at seed 0. Here each runs at every
seed; the interval is Student's over the seeds' changes, and the worst seed says how far the margin is from chance.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from posttrain.taxonomy import METHODS
from tests.effects.effect import EFFECTS, Effect, Measured

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "effects.md"
# Two-sided 95% of Student's t by degrees of freedom.
_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="effects whose name has this in it")
    parser.add_argument("--write", action="store_true", help="write docs/effects.md")
    options = parser.parse_args()
    for module in sorted((ROOT / "tests" / "effects").glob("of_*.py")):
        import_module(f"tests.effects.{module.stem}")
    lines = []
    order = list(METHODS)
    for effect in sorted(EFFECTS.values(), key=lambda effect: order.index(effect.method)):
        if options.only not in effect.name:
            continue
        seen = [measured(effect, seed) for seed in range(options.seeds)]
        lines.append(row(effect, seen))
        print(lines[-1], file=sys.stderr, flush=True)
    table = "\n".join([HEAD, *lines]) + "\n"
    if options.write:
        PAGE.write_text(INTRODUCTION.format(seeds=options.seeds, cores=os.cpu_count()) + table, encoding="utf-8")
    print(table)


INTRODUCTION = """# What each stage does

`benchmarks/effects.py`, {seeds} seeds each, {cores} cores, no GPU, tiny policies: does a stage move the quantity it is
for? The interval is 95% of Student's t over the seeds' changes; *worst* is the seed with the least of it; *margin* is
what `make test` holds at seed 0. Provenance is the one computed for the record. Seconds are the stage's own, mean.

"""
COLUMNS = [
    "stage",
    "method",
    "provenance",
    "quantity",
    "against",
    "baseline→value",
    "change[95%]",
    "worst",
    "margin",
    "seconds",
]
HEAD = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def measured(effect: Effect, seed: int) -> Measured:
    with tempfile.TemporaryDirectory() as home:
        return effect.measure(Path(home), seed)


def row(effect: Effect, seen: list[Measured]) -> str:
    """The effect's line in the table."""
    changes = [each.change for each in seen]
    mean = statistics.mean(changes)
    half = _T[len(seen) - 1] * statistics.stdev(changes) / len(seen) ** 0.5 if len(seen) > 1 else float("nan")
    baseline, value = (statistics.mean(getattr(each, side) for each in seen) for side in ("baseline", "value"))
    worst = min(changes) if effect.margin > 0 else max(changes)
    record = seen[0].record
    provenance = record.trace.provenance if record.trace else "–"
    seconds = statistics.mean(each.record.seconds for each in seen)
    missed = sum(not effect.holds(each) for each in seen)
    verdict = f"{effect.margin:+.2f}" + (f" (missed by {missed})" if missed else "")
    cells = (
        f"`{record.stage}`",
        f"`{effect.method}`",
        provenance,
        effect.quantity,
        effect.against,
        f"{baseline:.3f} → {value:.3f}",
        f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]",
        f"{worst:+.3f}",
        verdict,
        f"{seconds:.1f}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
