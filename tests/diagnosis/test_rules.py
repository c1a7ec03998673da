"""Rules as data: what they refuse, how intervals decide, and what the decision is where they do not."""

import math

import pytest
from pydantic import ValidationError

from posttrain.diagnosis.decide import decide, left_of, settling
from posttrain.diagnosis.intervals import Interval
from posttrain.diagnosis.rules import Answer, RuleTable, apply, rule_table
from posttrain.errors import ConfigError

TABLE = rule_table()


def near(value: float, width: float = 0.01) -> Interval:
    return Interval(value, value - width, value + width)


def around(value: float) -> Interval:
    """An interval that says little."""
    return Interval(value, value - 0.2, value + 0.2)


HEADROOM = {
    "pass_1": near(0.2),
    "pass_k": near(0.95),
    "headroom": near(0.75),
    "always_fail": near(0.02),
    "informative": near(0.8),
    "entropy": near(1.0),
}
SUPPORT = HEADROOM | {"pass_1": near(0.0), "pass_k": near(0.0), "headroom": near(0.0), "always_fail": near(1.0)}
KNOWN = {"demo_surprising": near(0.05), "demo_loss": near(0.4)}
FORGOTTEN = HEADROOM | {"anchor_change": near(-0.2)}
MIXED = HEADROOM | {"pass_k": near(0.5), "always_fail": near(0.5), "demo_surprising": near(0.9)}


def test_every_rule_of_the_facts_is_there_once():
    ids = [rule.id for rule in TABLE.rules]
    assert len(ids) == len(set(ids))
    assert {f"D{n}" for n in range(20)} == set(ids)


@pytest.mark.parametrize(
    ("signals", "inputs", "taken", "rule", "steps"),
    [
        (HEADROOM, [], [], "D3", ("rft", "rl")),
        (HEADROOM, [], ["rft"], "D3", ("rl",)),
        (HEADROOM, [], ["rft", "rl"], "D3", ("rl",)),
        (SUPPORT, ["demos"], [], "D1", ("sft", "sft_replay")),
        (SUPPORT, ["teacher"], [], "D1", ("imitate", "distill")),
        (SUPPORT, [], [], "D1", ()),
        (MIXED, ["demos"], [], "D6", ("sft_replay", "rl")),
        (MIXED | KNOWN, ["demos"], [], "D3", ("rft", "rl")),
        (SUPPORT | KNOWN, ["demos"], [], "D1", ()),
        (SUPPORT | KNOWN | {"demo_loss": near(2.7)}, ["demos"], [], "D1", ("sft", "sft_replay")),
        (HEADROOM | {"training_indiscriminate": near(0.95)}, [], [], "D0", ()),
        (FORGOTTEN | {"anchor_attrition": near(0.4)}, ["original"], ["sft"], "D7", ("merge",)),
        (FORGOTTEN | {"anchor_attrition": near(0.0)}, ["original"], ["sft"], "D18", ("rft", "rl")),
        (FORGOTTEN | {"anchor_attrition": near(0.0)}, ["original"], ["sft", "rft"], "D18", ("rl",)),
        (HEADROOM | {"pass_k_change": near(-0.3)}, ["original"], [], "D8", ("restore",)),
        (HEADROOM | {"pass_k_change": near(-0.3)}, ["original"], ["rl"], "D3", ("rft", "rl")),
        (HEADROOM | {"gained": near(0.3)}, ["demos"], ["sft"], "D15", ("sft_replay",)),
        (HEADROOM | {"gained": near(0.3), **KNOWN}, ["demos"], ["sft"], "D15", ("sft_replay",)),
        (HEADROOM | {"gained": near(0.3)}, ["demos"], ["sft", "sft_replay"], "D15", ("sft",)),
        (HEADROOM | {"pass_k": near(0.7)}, [], ["sft", "rl"], "D3", ("rft", "rl")),
        (HEADROOM | {"pass_k": near(0.7)}, ["demos"], ["sft", "rl"], "D19", ("sft_replay",)),
        (HEADROOM | {"pass_k": near(0.7)} | KNOWN, ["demos"], ["rft"], "D19", ("sft_replay",)),
        (HEADROOM | {"gained": near(0.0), "pass_1_change": near(0.0)}, ["demos"], ["sft"], "D3", ("rft", "rl")),
        (HEADROOM | {"pass_1": near(0.97), "pass_k": near(0.99), "headroom": near(0.02)}, [], [], "D16", ()),
        (HEADROOM | {"teacher_gap": near(0.4), "teacher_novelty": near(0.5)}, ["teacher"], [], "D10",
         ("imitate", "distill")),
        ({"pass_1": near(0.3)}, [], [], "–", ()),
    ],
)  # fmt: skip
def test_what_follows_from_what(signals, inputs, taken, rule, steps):
    decision = decide(signals, inputs, taken, TABLE)
    assert (decision.decided, decision.best.rule.id, decision.best.steps) == (True, rule, steps)


@pytest.mark.parametrize(
    ("refused", "steps"),
    [([], ("rft", "rl")), (["rft"], ("rl", "rft")), (["rl", "rft"], ())],
)
def test_a_step_that_was_rolled_back_is_not_tried_again_from_there(refused, steps):
    decision = decide(HEADROOM, [], [], TABLE, refused)
    assert decision.best.steps == steps
    assert decision.best.rule.id == ("D3" if steps else "–")


def test_a_rule_whose_remedies_were_all_tried_gives_way_to_the_next():
    assert decide(MIXED, ["demos"], [], TABLE, ["sft_replay"]).best.rule.id == "D3"


def test_only_what_has_something_new_to_learn_from_follows_itself():
    assert decide(HEADROOM, [], ["rft", "rl"], TABLE).next_step == "rl"
    assert decide(HEADROOM, [], ["rl", "rft"], TABLE).next_step == "rl"


def test_a_remedy_that_lacks_its_input_says_which():
    assert decide(SUPPORT, [], [], TABLE).best.lacking == ("demos", "teacher")


def test_intervals_that_straddle_a_threshold_leave_it_open():
    signals = MIXED | {"always_fail": around(0.25)}
    decision = decide(signals, ["demos"], [], TABLE)
    assert [branch.rule.id for branch in decision.branches] == ["D6", "D3"]
    assert not decision.decided
    assert decision.best.rule.id == "D6", "the estimate is above the threshold"
    low = decide(MIXED | {"always_fail": around(0.15)}, ["demos"], [], TABLE)
    assert (low.decided, low.best.rule.id) == (False, "D3")


def test_doubt_between_rules_with_the_same_step_is_none():
    signals = SUPPORT | {"teacher_gap": around(0.12), "teacher_novelty": near(0.5)}
    decision = decide(signals, ["teacher"], [], TABLE)
    assert {branch.rule.id for branch in decision.branches} == {"D10", "D1"}
    assert (decision.decided, decision.next_step) == (True, "imitate")


def test_a_signal_that_nobody_measured_makes_no_rule_hold():
    answers = {entry.rule.id: entry.answer for entry in apply(TABLE, {})}
    assert set(answers.values()) == {Answer.UNMEASURED}
    unknown = {"headroom": Interval(math.nan, math.nan, math.nan)}
    assert {entry.answer for entry in apply(TABLE, unknown)} == {Answer.UNMEASURED}


def test_how_many_problems_settle_a_doubt():
    signals = MIXED | {"always_fail": Interval(0.25, 0.15, 0.35)}
    applied = next(entry for entry in apply(TABLE, signals) if entry.rule.id == "D6")
    (tested,) = applied.open()
    assert settling(tested, 100) in (400, 401), "half the width is needed, so four times the problems"


def test_left_of():
    assert left_of(["rft", "rl"], []) == ("rft", "rl")
    assert left_of(["rft", "rl"], ["sft"]) == ("rft", "rl")
    assert left_of(["a", "b", "c"], ["a", "b"]) == ("c",)
    assert left_of(["a", "b", "c"], ["x", "a"]) == ("b", "c")


def test_thresholds_can_be_changed_by_name_only():
    strict = TABLE.with_thresholds({"headroom": 0.9})
    assert decide(HEADROOM, [], [], strict).best.rule.id == "–"
    with pytest.raises(ConfigError, match="no threshold is called 'hedroom'"):
        TABLE.with_thresholds({"hedroom": 0.9})


RULE = {
    "id": "X", "diagnosis": "d", "title": "t", "remedy": "r", "because": ["b"],
    "when": [{"signal": "pass_1", "below": "low"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"when": [{"signal": "pass_1", "below": "lo"}]}, "no threshold is called 'lo'"),
        ({"when": [{"signal": "pass_1", "below": "low", "at_least": "low"}]}, "either at_least or below"),
        ({"when": [{"any": [{"signal": "a", "below": "low"}], "signal": "b"}]}, "give `any`"),
        ({"then": [["rll"]]}, "no step is called 'rll'; did you mean 'rl'?"),
        ({"excludes": ["sfft"]}, "no step is called 'sfft'"),
        ({"after": ["rftt"]}, "no step is called 'rftt'"),
        ({"because": []}, "at least 1 item"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(change, says):
    table = {"thresholds": {"low": {"value": 0.1, "what": "w"}}, "rules": [RULE]}
    RuleTable.model_validate(table)
    with pytest.raises(ValidationError, match=says):
        RuleTable.model_validate({**table, "rules": [RULE | change]})
