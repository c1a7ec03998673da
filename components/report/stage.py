"""One page for the whole run: the table before and after, pass@k, support, curves, lineage."""

from __future__ import annotations

import json
from pathlib import Path

from posttrain.progress import Progress
from posttrain.report.run import Run, run_blocks, run_table
from posttrain.settings import Settings
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind

PARENTS = {
    "evaluations": ParentSpec(Kind.EVALUATION, most=8, help="evaluations of the same problems, the base's first"),
    "recommendations": ParentSpec(
        Kind.RECOMMENDATION, most=8, required=False, help="the recommendations of the rounds that led here"
    ),
    "decision": ParentSpec(Kind.DECISION, required=False, help="the gate's decision"),
}


def run(settings: Settings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Gather what the parents' records say."""
    found = Run.of(
        parents.all("evaluations"), parents.maybe("decision"), recommendations=parents.all("recommendations")
    )
    table = run_table(found)
    (out / "table.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    progress.update(1, 1, "page written")
    return Work(
        facts=found.facts(),
        metrics=parents.all("evaluations")[-1].record.metrics,
        blocks=run_blocks(found),
    )


STAGE = Stage(
    name="report",
    output="report",
    makes=Kind.REPORT,
    parents=PARENTS,
    settings=Settings,
    run=run,
    image="control",
)
