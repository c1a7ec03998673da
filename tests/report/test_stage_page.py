"""What the page of a stage says first: what came out, in words and in the numbers that tell most."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from posttrain.artifacts.provenance import Trace
from posttrain.artifacts.record import Environment, Record
from posttrain.diagnosis.compare import compare, summarise
from posttrain.diagnosis.roles import measured_role
from posttrain.report.charts import LineChart, Series
from posttrain.report.evaluation import evaluation_blocks
from posttrain.report.page import Page, Section, Verdict, render
from posttrain.report.stage_page import stage_page
from posttrain.taxonomy import Kind, Provenance, Role
from tests.diagnosis.conftest import make_evaluation

TRACE = Trace(provenance=Provenance.OFF_POLICY, on_policy_fraction=0, self_generated_fraction=0, rows=5080)


def page(stage: str, method: str, kind: Kind = Kind.POLICY, **more: Any) -> str:
    made = {"environment": Environment(versions={}), "started": datetime(2026, 1, 1, tzinfo=UTC), "seconds": 1.5}
    record = Record(kind=kind, stage=stage, method=method, name="it", digest="a" * 64, files={}, **made, **more)
    return html.unescape(stage_page(record, []))


def words(page: str) -> str:
    """The text, without tags and style."""
    return " ".join(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL).split())


@pytest.mark.parametrize(
    ("read", "kept", "mixed", "says"),
    [
        (10, 10, 0, "10 trajectories, no row dropped"),
        (1200, 1100, 0, "1,100 trajectories, 100 of 1,200 rows dropped"),
        (10, 10, 5, "15 trajectories, 5 of them replayed, no row dropped"),
    ],
)
def test_data_says_what_was_dropped(read: int, kept: int, mixed: int, says: str) -> None:
    counts = {"rows_read": read, "rows_kept": kept} | ({"replay_rows": mixed} if mixed else {})
    assert says in words(page("prepare", "prepare", Kind.TRAJECTORIES, facts={"rows": kept + mixed}, counts=counts))


def test_training_says_how_far_its_most_telling_curves_came() -> None:
    curves = {"grad_norm": [[1, 2.0], [9, 1.0]], "loss": [[1, 1.32], [9, 0.65]], "reward": [[9, 0.25]]}
    text = words(page("rl", "grpo", trace=TRACE, curves=curves, metrics={"loss": 0.65, "grad_norm": 1.0, "auc": 0.5}))
    assert "on 5,080 off-policy trajectories" in text
    assert "auc 0.500 reward 0.250 loss 1.320 → 0.650 in 1.5 s" in text


@pytest.mark.parametrize(("heading", "times"), [("reward", 1), ("Training", 2)])
def test_a_chart_does_not_repeat_the_heading_above_it(heading: str, times: int) -> None:
    chart = LineChart("reward", "step", "", [Series("reward", [(1, 0.1), (2, 0.3)])])
    titles = re.findall(r"<(?:h2|figcaption)>(.+?)<", render(Page("it", [Section(heading, [chart])])))
    assert titles == [heading, "reward"][:times]


def test_settings_are_written_as_they_are_given() -> None:
    given = {"vllm": {"share": 0.9, "none": None}, "rate": 2e-05, "keep": ["a", "b"]}
    assert "vllm.share 0.9 rate 2e-05 keep a, b" in words(page("sft", "sft", parameters=given))


@pytest.mark.parametrize(
    ("before", "after", "meant", "says", "tone"),
    [
        (0, 32, Role.EXPANSION, "it: expansion, as intended", "good"),
        (32, 32, Role.EXPANSION, "it: no role, though expansion was intended", "bad"),
        (0, 32, None, "it: expansion", "neutral"),
    ],
)
def test_an_evaluation_says_what_the_stage_before_it_turned_out_to_do(
    before: int, after: int, meant: Role | None, says: str, tone: str
) -> None:
    then, now = (make_evaluation([correct] * 64) for correct in (before, after))
    verdict = evaluation_blocks("it", summarise(now), None, [], measured_role(compare(then, now), meant))[0]
    assert isinstance(verdict, Verdict)
    assert (verdict.text, verdict.tone) == (says, tone)
    assert verdict.numbers[0] == ("pass@1", ".500 [.477, .523]")
