"""What supervised fine-tuning cost of what the policy could do: its anchors, sampled before and after."""

from __future__ import annotations

from pathlib import Path

from posttrain.components.evaluate.measure import measure_all

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.evaluation import Measured
from posttrain.artifacts.problems import Problem
from posttrain.diagnosis.compare import Comparison, compare
from posttrain.generation.settings import SamplingSettings, sample_problems
from posttrain.progress import Progress
from posttrain.report.evaluation import change_blocks
from posttrain.report.page import Block, Section, Table


def kept(
    init: Artifact, trained: Path, anchors: list[Problem], sampling: SamplingSettings, progress: Progress
) -> Comparison:
    """The anchors under both policies, with the same draws; `trained` is written but has no record yet."""

    def measured(policy: Artifact) -> list[Measured]:
        sampled = sample_problems(policy, anchors, sampling, progress)
        return measure_all(anchors, sampled, [[] for _ in anchors])

    after = Artifact(trained, init.record)  # sampling reads the path alone
    return compare(measured(init), measured(after), seed=sampling.seed)


def anchor_metrics(found: Comparison) -> dict[str, float]:
    """Attrition, with the ends of its interval, and pass@1 before and after."""
    lost, rate = found.support.lost.beyond_luck, found.pass_1
    return {
        "anchors/attrition": lost.estimate,
        "anchors/attrition_low": lost.low,
        "anchors/attrition_high": lost.high,
        "anchors/pass_at_1_before": rate.before.estimate,
        "anchors/pass_at_1_after": rate.after.estimate,
    }


def anchor_blocks(found: Comparison) -> list[Block]:
    """The section of the stage's page."""
    rows = [
        ("left the support (attrition)", str(found.support.lost.beyond_luck)),
        ("pass@1 before", str(found.pass_1.before)),
        ("pass@1 after", str(found.pass_1.after)),
        ("difference", str(found.pass_1.delta)),
    ]
    note = f"{found.problems} problems that training was not to change; 95% intervals over problems."
    return [Section("Anchors: what it cost", [Table(["what", "share"], rows, note), *change_blocks({"all": found})])]
