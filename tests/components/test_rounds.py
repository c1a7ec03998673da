"""The stages of a round: select, diagnose, recommend, follow, recall, contrast; and inputs that are left out."""

import json
import shutil

import pytest
import yaml
from posttrain.components.catalogue import load_stage, load_stages

from posttrain.artifacts.problems import read_problems
from posttrain.artifacts.record import read_record
from posttrain.diagnosis.diagnosis import read_diagnosis
from posttrain.diagnosis.intervals import Interval
from posttrain.diagnosis.keep import Fate, decide_fate
from posttrain.diagnosis.recommend import read_recommendation
from posttrain.errors import ConfigError, ContractError, DataError
from posttrain.recipes.load import parse_recipe
from posttrain.stage import execute
from posttrain.storage.runs import runs_below
from posttrain.taxonomy import Role
from tests.made import based, demo, evaluated, prepared, problem, refused
from tests.tiny import tiny_policy

PROBLEMS = [problem(n, id=f"p{n}") for n in range(12)]
RIGHT = [0, 0, 0, 4, 4, 1, 2, 3, 1, 2, 3, 1]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A policy, problems, an evaluation: three never, two always, seven sometimes right."""
    root = tmp_path_factory.mktemp("rounds")
    tiny_policy(root / "model", "llama")
    based(root / "policy", root / "model")
    prepared(root / "problems", PROBLEMS)
    evaluated(root / "evaluation", root / "policy", root / "problems", RIGHT)
    return root


def run(stage, parents, out, **settings):
    return execute(load_stage(stage), {role: [path] for role, path in parents.items()}, settings, out)


@pytest.mark.parametrize(
    ("keep", "kept"),
    [(["sometimes"], 7), (["never"], 3), (["always", "never"], 5), (["never", "sometimes", "always"], 12)],
)
def test_select_keeps_problems_by_what_the_policy_does(home, tmp_path, keep, kept):
    parents = {"candidates": home / "problems", "evaluation": home / "evaluation"}
    record = run("select", parents, tmp_path / "out", keep=keep)
    ids = {p.id for p in read_problems(tmp_path / "out")}
    assert len(ids) == record.counts["kept"] == kept
    assert record.counts["never_right"] + record.counts["sometimes_right"] + record.counts["always_right"] == 12


def test_select_refuses_another_file_s_evaluation(home, tmp_path):
    prepared(tmp_path / "others", [problem(n) for n in range(20, 25)])
    parents = {"candidates": [tmp_path / "others"], "evaluation": [home / "evaluation"]}
    refused("select", parents, {}, tmp_path / "out", ContractError, "on other problems")


BOUNDS = {"out_of_reach": 1.0}  # so that D1 holds, and demonstrations are the remedy


@pytest.fixture(scope="module")
def diagnosed(home):
    """Of ten times as many problems, so that the intervals decide."""
    prepared(home / "many", [problem(n, id=f"p{n}") for n in range(120)])
    evaluated(home / "much", home / "policy", home / "many", RIGHT * 10)
    prepared(home / "demos", [demo(n) for n in range(200, 208)], "trajectories")
    run("diagnose", {"evaluation": home / "much", "demos": home / "demos"}, home / "diagnosis", name="diagnosis")
    return home / "diagnosis"


def test_a_diagnosis_has_every_signal_with_its_interval(home, diagnosed):
    found = read_diagnosis(diagnosed)
    signals = found.of_slice()
    assert signals["pass_1"].estimate == pytest.approx(sum(RIGHT) / 48)
    assert signals["always_fail"].estimate == pytest.approx(3 / 12)
    assert all(interval.low <= interval.estimate <= interval.high for interval in signals.values())
    assert (found.problems, found.samples, found.k, found.inputs) == (120, 4, 2, ["demos"])


def test_the_recommendation_is_a_recipe_that_can_be_compiled(home, diagnosed, tmp_path):
    run("recommend", {"diagnosis": diagnosed}, tmp_path / "out", thresholds=BOUNDS)
    found = read_recommendation(tmp_path / "out")
    assert found.next_step == "sft" and found.evidence and found.cost
    recipe = parse_recipe((tmp_path / "out" / "recipe.yaml").read_text(), "recommended", load_stages())
    assert [name for name in recipe.stages if name.endswith("policy_1")] == ["sft_policy_1"]
    assert "sft_replay_policy_2" in recipe.stages


def test_a_step_that_left_the_policy_as_it_was_counts_as_rolled_back(home, diagnosed, tmp_path):
    bounds = {"thresholds": BOUNDS}
    run("recommend", {"diagnosis": diagnosed}, tmp_path / "first", **bounds)
    run("recommend", {"diagnosis": diagnosed, "previous": tmp_path / "first"}, tmp_path / "second", **bounds)
    second = read_recommendation(tmp_path / "second")
    assert (second.taken, second.refused) == ([], ["sft"])
    assert second.next_step != "sft"


def test_the_next_round_goes_on_from_the_policy_that_was_kept(home, diagnosed, trained, tmp_path):
    bounds = {"thresholds": BOUNDS}
    run("recommend", {"diagnosis": diagnosed}, tmp_path / "first", **bounds)
    evaluated(tmp_path / "now", trained, home / "many", RIGHT * 10)
    parents = {"evaluation": tmp_path / "now", "demos": home / "demos"}
    run("diagnose", parents, tmp_path / "diagnosis")
    parents = {"diagnosis": tmp_path / "diagnosis", "previous": tmp_path / "first"}
    run("recommend", parents, tmp_path / "second", **bounds)
    second = read_recommendation(tmp_path / "second")
    assert (second.taken, second.refused) == (["sft"], [])
    assert second.next_step == "sft_replay"


def test_a_diagnosis_samples_nothing(home, diagnosed, tmp_path, monkeypatch):
    """One evaluation feeds everything: with the policy at hand, given texts are scored, and none is generated."""
    from posttrain.generation import transformers

    def refuse(*args, **kwargs):
        raise AssertionError("sampled")

    settings = {"samples": 4, "max_new_tokens": 4}
    run("evaluate", {"policy": home / "policy", "problems": home / "problems"}, tmp_path / "first", **settings)
    for name in ("sample", "_completions"):
        monkeypatch.setattr(transformers, name, refuse)
    monkeypatch.setattr("transformers.generation.utils.GenerationMixin.generate", refuse)
    parents = {"evaluation": tmp_path / "first", "policy": home / "policy", "demos": home / "demos"}
    run("diagnose", parents, tmp_path / "out")
    assert {"mismatch", "demo_loss"} <= read_diagnosis(tmp_path / "out").of_slice().keys()


def test_an_unknown_threshold_is_refused(home, diagnosed, tmp_path):
    refused("recommend", {"diagnosis": [diagnosed]}, {"thresholds": {"x": 1}}, tmp_path / "out", ConfigError, "'x'")


def test_the_evaluation_must_be_of_the_policy(home, tmp_path):
    tiny_policy(tmp_path / "model", "llama", seed=7)
    other = based(tmp_path / "other", tmp_path / "model")
    parents = {"evaluation": [home / "evaluation"], "policy": [other]}
    refused("diagnose", parents, {}, tmp_path / "out", ContractError, "not of the one given")


RECIPE = """
name: tune
title: Tune
inputs: {base: {help: The policy.}, demos: {help: Demonstrations.}}
stages:
  start: {use: base, with: {uri: "${base}"}}
  rows: {use: prepare, with: {uri: "${demos}", kind: trajectories}}
  tuned: {use: sft, parents: {init: start, data: rows}, role: expansion, with: {max_steps: 2, learning_rate: 0.01}}
"""


@pytest.fixture(scope="module")
def trained(home):
    """A policy made from the first by SFT."""
    settings = {"recipe": RECIPE, "demos": demos(home), "name": "policy_1"}
    run("follow", {"base": home / "policy"}, home / "trained", **settings)
    return home / "trained"


def kept(home, trained, out, before, after, anchors=(), **settings):
    """The record that `keep` hands on, where so many of four samples were right before and after."""
    out.mkdir()
    evaluated(out / "before", home / "policy", home / "problems", before)
    evaluated(out / "after", trained, home / "problems", after)
    parents = {"candidate": [trained], "best": [home / "policy"], "evaluations": [out / "before", out / "after"]}
    for role, right, policy in zip(("anchors_first", "anchors"), anchors, (home / "policy", trained), strict=False):
        parents[role] = [evaluated(out / role, policy, home / "problems", right)]
    return execute(load_stage("keep"), parents, settings, out / "kept", out / "kept.html")


@pytest.mark.parametrize(
    ("before", "after", "anchors", "settings", "stays"),
    [
        ([1] * 12, [2] * 12, (), {}, True),
        ([2] * 12, [1] * 12, (), {}, False),
        ([1] * 12, [1] * 12, (), {}, False),
        ([1] * 12, [2] * 12, ([4] * 12, [3] * 12), {}, False),
        ([1] * 12, [2] * 12, ([4] * 12, [3] * 12), {"max_anchor_loss": 0.5}, True),
        ([1] * 12, [2] * 12, ([4] * 12, [3] * 12), {"provisional": True}, True),
        ([2] * 12, [1] * 12, ([4] * 12, [3] * 12), {"provisional": True}, False),
        ([1] * 12, [4, 0, 0, 0] * 3, (), {"breadth": 1.0}, False),
        ([1] * 12, [4, 1, 0, 0] * 3, (), {"breadth": 0.0}, True),
    ],
)
def test_a_step_is_kept_if_the_policy_is_worth_more_and_the_anchors_hold(
    home, trained, tmp_path, before, after, anchors, settings, stays
):
    handed_on = kept(home, trained, tmp_path / "out", before, after, anchors, **settings)
    chosen = trained if stays else home / "policy"
    assert handed_on.id == read_record(chosen).id == read_record(tmp_path / "out" / "kept").id


@pytest.mark.parametrize(
    ("worth", "breadth", "anchors", "role", "fate"),
    [
        (0.1, 0.0, None, Role.EXPANSION, Fate.KEPT),
        (0.1, 0.0, -0.01, Role.EXPANSION, Fate.KEPT),
        (0.1, 0.0, -0.1, Role.EXPANSION, Fate.PROVISIONAL),
        (-0.1, 0.3, None, Role.CONSOLIDATION, Fate.PROVISIONAL),
        (-0.1, 0.3, None, Role.EXPANSION, Fate.ROLLED_BACK),
        (-0.1, 0.3, -0.1, Role.CONSOLIDATION, Fate.ROLLED_BACK),
        (0.0, 0.0, None, Role.RESHAPING, Fate.PROVISIONAL),
        (-0.01, 0.0, -0.1, Role.RESHAPING, Fate.ROLLED_BACK),
        (-0.03, 0.0, None, Role.RESHAPING, Fate.ROLLED_BACK),
    ],
)
def test_what_becomes_of_a_candidate(worth, breadth, anchors, role, fate):
    def exact(value):
        return Interval(value, value - 0.01, value + 0.01)

    found = decide_fate(exact(worth), exact(breadth), None if anchors is None else exact(anchors), role)
    assert found.fate is fate


def test_a_loop_that_falls_back_to_a_policy_remembers_what_it_tried_from_there(home, diagnosed, trained, tmp_path):
    """base → sft (provisional) → its mending fails → back at the base: not sft again, and no step counts as taken."""
    bounds = {"thresholds": BOUNDS}
    run("recommend", {"diagnosis": diagnosed}, tmp_path / "first", **bounds)
    evaluated(tmp_path / "now", trained, home / "many", RIGHT * 10)
    run("diagnose", {"evaluation": tmp_path / "now", "demos": home / "demos"}, tmp_path / "diagnosis")
    run("recommend", {"diagnosis": tmp_path / "diagnosis", "previous": tmp_path / "first"}, tmp_path / "second")
    run("recommend", {"diagnosis": diagnosed, "previous": tmp_path / "second"}, tmp_path / "third", **bounds)
    third = read_recommendation(tmp_path / "third")
    assert (third.taken, third.refused) == ([], ["sft"])
    assert len(third.explored) == 2


def test_keep_needs_an_evaluation_of_both(home, trained, tmp_path):
    evaluated(tmp_path / "before", home / "policy", home / "problems", RIGHT)
    parents = {"candidate": [trained], "best": [home / "policy"], "evaluations": [tmp_path / "before"]}
    refused("keep", parents, {}, tmp_path / "out", ContractError, "no evaluation is of the candidate policy")


def test_a_policy_is_compared_with_the_nearest_that_it_was_made_from(home, trained, tmp_path):
    """The newest evaluation is of a policy that was rolled back: nobody's ancestor."""
    tiny_policy(tmp_path / "model", "llama", seed=9)
    rolled_back = based(tmp_path / "rolled_back", tmp_path / "model")
    for name, policy, right in (
        ("first", home / "policy", [1] * 12),
        ("tried", rolled_back, [4] * 12),
        ("now", trained, [2] * 12),
    ):
        evaluated(tmp_path / name, policy, home / "problems", right)
    earlier = [tmp_path / "first", tmp_path / "tried"]
    parents = {"evaluation": [tmp_path / "now"], "before": earlier}
    execute(load_stage("diagnose"), parents, {}, tmp_path / "diagnosis")
    assert read_diagnosis(tmp_path / "diagnosis").of_slice()["pass_1_change"].estimate == pytest.approx(0.25)


def test_after_a_rollback_the_diagnosis_is_of_the_policy_that_stayed(home, trained, tmp_path):
    evaluated(tmp_path / "first", home / "policy", home / "problems", [1] * 12)
    evaluated(tmp_path / "tried", trained, home / "problems", [0] * 12)
    parents = {"evaluation": tmp_path / "tried", "before": tmp_path / "first", "policy": home / "policy"}
    run("diagnose", parents, tmp_path / "diagnosis", probe_rows=0)
    found = read_diagnosis(tmp_path / "diagnosis")
    assert found.policy_digest == read_record(home / "policy").digest
    assert found.of_slice()["pass_1"].estimate == pytest.approx(0.25)


def demos(tmp_path):
    file = tmp_path / "demos.jsonl"
    file.write_text("".join(json.dumps(demo(n)) + "\n" for n in range(8)))
    return str(file)


def test_follow_runs_a_recipe_and_hands_out_its_last_policy_with_its_own_record(home, tmp_path):
    record = run("follow", {"base": home / "policy"}, tmp_path / "out", recipe=RECIPE, demos=demos(tmp_path))
    stored = read_record(tmp_path / "out")
    assert (stored.stage, stored.name, stored.id) == ("sft", "tuned", record.id)
    assert stored.parent("init").id == read_record(home / "policy").id, "the given policy stands in for the stage base"
    assert stored.trace.provenance == "off-policy"


def test_follow_hands_the_policy_on_where_there_is_nothing_to_do(home, diagnosed, tmp_path):
    run("recommend", {"diagnosis": diagnosed}, tmp_path / "stop", thresholds={"headroom": 1.0})
    assert read_recommendation(tmp_path / "stop").verdict == "stop"
    parents = {"base": home / "policy", "recommendation": tmp_path / "stop"}
    assert run("follow", parents, tmp_path / "out").id == read_record(home / "policy").id


@pytest.mark.parametrize(
    ("settings", "error", "mentions"),
    [
        ({}, ConfigError, ["give a recipe, or a recommendation"]),
        ({"recipe": RECIPE}, ContractError, ["tune needs 'demos'"]),
        ({"recipe": RECIPE.replace("use: sft", "use: sftt")}, Exception, ["no stage is called 'sftt'"]),
    ],
)
def test_what_follow_refuses(home, tmp_path, settings, error, mentions):
    refused("follow", {"base": [home / "policy"]}, settings, tmp_path / "out", error, *mentions)


UNTAKEABLE = """
name: untakeable
title: Rejection sampling
inputs: {base: {help: The policy.}, demos: {help: Demonstrations.}}
stages:
  start: {use: base, with: {uri: "${base}"}}
  rows: {use: prepare, with: {uri: "${demos}", kind: trajectories}}
  right: {use: verify, parents: {trajectories: rows}, with: {min_reward: 1.0}}
  tuned: {use: sft, parents: {init: start, data: right}}
"""


def test_a_step_that_cannot_be_taken_fails_or_hands_the_policy_on(home, tmp_path):
    rows = [demo(n, verifier="exact", reference="never") for n in range(8)]
    file = tmp_path / "wrong.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"recipe": UNTAKEABLE, "demos": str(file)}
    refused("follow", {"base": [home / "policy"]}, settings, tmp_path / "x" / "out", DataError, "none of 8")
    settings["on_failure"] = "hand_on"
    stage, page = load_stage("follow"), tmp_path / "page.html"
    record = execute(stage, {"base": [home / "policy"]}, settings, tmp_path / "out", page)
    assert record.id == read_record(home / "policy").id
    assert "Rejection sampling cannot be taken" in page.read_text() and "none of 8" in page.read_text()


def test_recall_brings_an_artifact_back_as_it_was_made(home, tmp_path):
    run("recall", {}, tmp_path / "out", uri=str(home / "evaluation"), kind="evaluation")
    assert read_record(tmp_path / "out").id == read_record(home / "evaluation").id
    refused("recall", {}, {"uri": str(home / "evaluation"), "kind": "policy"}, tmp_path / "no", ContractError)


def test_contrast_names_a_winner_only_where_the_intervals_agree(home, tmp_path):
    many = prepared(tmp_path / "many", [problem(n, id=f"p{n}") for n in range(60)])
    base = evaluated(tmp_path / "base", home / "policy", many, [1] * 60)
    better = evaluated(tmp_path / "better", home / "policy", many, [3] * 60, name="better")
    same = evaluated(tmp_path / "same", home / "policy", many, [1, 1, 1, 2] * 15, name="same")
    twin = evaluated(tmp_path / "twin", home / "policy", many, [1, 2, 1, 1] * 15, name="twin")
    stage = load_stage("contrast")
    clear = execute(stage, {"candidates": [better, same], "base": [base]}, {}, tmp_path / "clear")
    open_ = execute(stage, {"candidates": [twin, same], "base": [base]}, {}, tmp_path / "open")
    assert (clear.facts["verdict"], open_.facts["verdict"]) == ("better", "undecided")
    refused("contrast", {"candidates": [same, same], "base": [base]}, {}, tmp_path / "x", ContractError, "'same'")


def test_an_input_left_out_is_absent_and_so_is_what_needs_it(home, tmp_path):
    absent = run("base", {}, tmp_path / "teacher", uri="", optional=True, name="teacher_policy")
    assert absent.absent == "teacher_policy was not given"
    parents = {"policy": tmp_path / "teacher", "problems": home / "problems"}
    assert run("evaluate", parents, tmp_path / "evaluation").absent == absent.absent
    found = run("diagnose", {"evaluation": home / "evaluation", "teacher": tmp_path / "evaluation"}, tmp_path / "out")
    assert found.kind == "diagnosis" and "teacher_gap" not in read_diagnosis(tmp_path / "out").of_slice()
    refused("base", {}, {"uri": ""}, tmp_path / "x", ConfigError, "uri is empty")


def test_the_same_policy_is_not_sampled_twice(home, tmp_path):
    settings = {"samples": 2, "max_new_tokens": 4}
    parents = {"policy": home / "policy", "problems": home / "problems"}
    first = run("evaluate", parents, tmp_path / "first", **settings)
    again = run("evaluate", parents | {"before": tmp_path / "first"}, tmp_path / "again", **settings)
    assert (first.counts["reused"], again.counts["reused"], again.digest) == (0, 24, first.digest)
    other = run("evaluate", parents | {"before": tmp_path / "first"}, tmp_path / "other", seed=1, **settings)
    assert other.counts["reused"] == 0


def test_halves_of_a_file_share_no_problem(tmp_path):
    rows = [problem(n, id=f"p{n}", slice="ab"[n % 2]) for n in range(21)]
    halves = [
        {p.id: p.slice for p in read_problems(prepared(tmp_path / part, rows, part=part))}
        for part in ("first", "second")
    ]
    assert not halves[0].keys() & halves[1].keys()
    assert len(halves[0]) + len(halves[1]) == 21
    assert {abs(list(h.values()).count("a") - list(h.values()).count("b")) for h in halves} <= {0, 1}


def test_a_changed_artifact_is_not_recalled(home, tmp_path):
    shutil.copytree(home / "evaluation", tmp_path / "changed")
    file = tmp_path / "changed" / "evaluation.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    refused("recall", {}, {"uri": str(tmp_path / "changed"), "kind": "evaluation"}, tmp_path / "out", DataError)


def test_who_follows_the_same_recipe_keeps_its_checkpoints_apart(home, tmp_path):
    settings = {"recipe": RECIPE, "demos": demos(tmp_path), "checkpoint_uri": str(tmp_path / "kept")}
    for label in ("one", "an/other"):
        run("follow", {"base": home / "policy"}, tmp_path / label.replace("/", ""), name=label, **settings)
    other, one = (each.name.split("/") for each in runs_below(str(tmp_path / "kept")))
    assert (one[0], other[0], one[1]) == ("one", "an-other", other[1])


def test_stage_settings_reach_the_followed_recipe(home, tmp_path):
    settings = {"recipe": yaml.safe_dump(yaml.safe_load(RECIPE)), "demos": demos(tmp_path)}
    changed = {**settings, "stage_settings": {"sft": {"max_steps": 1}}}
    record = run("follow", {"base": home / "policy"}, tmp_path / "out", **changed)
    assert record.parameters["max_steps"] == 1
