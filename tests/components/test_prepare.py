"""`prepare` on every bad input: one line that names row, value and remedy, and nothing left; and exact counts."""

import json

import pytest

from posttrain.artifacts.problems import read_problems
from posttrain.artifacts.record import read_record
from posttrain.artifacts.trajectories import read_trajectories
from posttrain.errors import ConfigError, ContractError, DataError, VerifierError
from tests.made import based, demo, jsonl, prepared, problem, refused, rolled_out
from tests.tiny import tiny_policy


def refuse(tmp_path, rows, *mentions, kind="problems", error=DataError, parents=None, **settings):
    uri = str(jsonl(tmp_path / "in" / "rows.jsonl", rows))
    return refused(
        "prepare", parents or {}, {"uri": uri, "kind": kind, **settings}, tmp_path / "x" / "out", error, *mentions
    )


GOOD = [problem(n) for n in range(1, 200)]

SPOILT = {
    "malformed": ('{"prompt": "5+', ["rows.jsonl:200", "not JSON"]),
    "no object": ("[1, 2]", ["rows.jsonl:200", "list instead of an object"]),
    "no prompt": ({"verifier": "exact", "reference": "1"}, ["rows.jsonl:200", "prompt=None"]),
    "empty prompt": (problem(5, prompt="  "), ["rows.jsonl:200", "prompt='  ' is empty", "drop the row"]),
    "no verifier": ({"prompt": "5+5="}, ["rows.jsonl:200", "verifier", "required"]),
    "no reference": ({"prompt": "5+5=", "verifier": "exact"}, ["rows.jsonl:200", "reference None"]),
    "slice no text": (problem(500, slice=5), ["rows.jsonl:200", "slice=5", "string"]),
    "empty id": (problem(500, id=""), ["rows.jsonl:200", "id=''"]),
    "taken id": (problem(500, id="row-7"), ["rows.jsonl:200", "id 'row-7' is taken", "make ids unique"]),
    "impossible": (
        problem(5, verifier="countdown", reference={"numbers": [1], "target": 2}),
        ["rows.jsonl:200", "no expression of [1] makes 2"],
    ),
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_spoilt_row_is_counted_below_the_share_and_an_error_above(tmp_path, spoilt):
    row, mentions = SPOILT[spoilt]
    refuse(tmp_path, [*GOOD, row], *mentions, "1 of 200 rows", "raise max_malformed", max_malformed=0.001)
    out = prepared(tmp_path / "out", [*GOOD, row])
    counts = read_record(out).counts
    assert sum(count for name, count in counts.items() if name.startswith("dropped_")) == 1
    assert (counts["rows_read"], counts["rows_kept"], len(read_problems(out))) == (200, 199, 199)


@pytest.mark.parametrize(
    ("rename", "mentions"),
    [
        ({"prompt": "promt"}, ["no column 'prompt' in any row", "did you mean 'promt'?"]),
        ({"verifier": "grader"}, ["no column 'verifier' in any row", "known: grader, prompt, reference"]),
    ],
)
def test_a_column_missing_everywhere_is_named_with_the_nearest(tmp_path, rename, mentions):
    rows = [{rename.get(key, key): value for key, value in row.items()} for row in GOOD]
    refuse(tmp_path, rows, "rows.jsonl:1", *mentions)


def test_an_unknown_verifier_is_an_error_however_rare(tmp_path):
    rows = [*GOOD, problem(500, verifier="exakt")]
    refuse(tmp_path, rows, "rows.jsonl:200", "'exakt'", "did you mean 'exact'?", error=VerifierError)


def test_trajectories_of_no_shape(tmp_path):
    refuse(tmp_path, [{"question": "1", "answer": "2"}], "rows.jsonl:1", "use one of", kind="trajectories")


def test_text_and_messages_mixed_in_problems(tmp_path):
    rows = [problem(1), problem(2, prompt=[{"role": "user", "content": "2+1="}])]
    refuse(tmp_path, rows, "rows.jsonl:2", "'prompt' is list where earlier rows have str", "messages throughout")


def test_text_and_messages_mixed_in_trajectories(tmp_path):
    rows = [demo(1), demo(2, completion=[{"role": "assistant", "content": "3"}])]
    refuse(tmp_path, rows, "rows.jsonl:2", "'completion' is list", kind="trajectories")


def test_a_column_of_two_types(tmp_path):
    rows = [demo(1, answer="2"), demo(2, answer=3)]
    refuse(tmp_path, rows, "answer", "make it uniform", kind="trajectories")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_no_rows(tmp_path, content):
    refuse(tmp_path, [content] if content else [], "rows.jsonl", "no rows", "give data")


def test_nothing_there(tmp_path):
    settings = {"uri": str(tmp_path / "nowhere"), "kind": "problems"}
    refused("prepare", {}, settings, tmp_path / "x" / "out", DataError, "nowhere: no such file", "check the path")


def test_a_file_of_another_format(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt,verifier")
    settings = {"uri": str(tmp_path / "rows.csv"), "kind": "problems"}
    refused("prepare", {}, settings, tmp_path / "x" / "out", DataError, "unknown format '.csv'", ".jsonl")


@pytest.mark.parametrize(
    ("settings", "mentions"),
    [
        ({"max_malformd": 0.1}, ["unknown setting max_malformd=0.1", "did you mean 'max_malformed'?"]),
        ({"kind": "problem"}, ["kind='problem'", "'problems' or 'trajectories'"]),
        ({"kind": None}, ["kind must be given: what the rows are"]),
        ({"replay_share": 1}, ["replay_share=1", "less than 1"]),
        ({"limit": 2.5}, ["limit=2.5", "integer"]),
        ({"seed": -1}, ["seed=-1", "greater than or equal to 0"]),
        ({"accept_provenance": "mixd"}, ["accept_provenance='mixd'", "'mixed'"]),
        ({"limit": "all", "seed": "x"}, ["limit='all'", "seed='x'"]),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named_with_value_and_remedy(tmp_path, settings, mentions):
    refuse(tmp_path, GOOD, "prepare: ", *mentions, **settings, error=ConfigError)


@pytest.fixture
def held_out(tmp_path):
    return prepared(tmp_path / "held_out", [problem(n, id=f"held-{n}") for n in range(1, 21)])


def test_held_out_problems_are_dropped_and_counted_below_the_share(tmp_path, held_out):
    rows = [demo(n) for n in range(16, 100)]
    out = prepared(tmp_path / "out", rows, "trajectories", {"held_out": [held_out]})
    record = read_record(out)
    assert record.counts == {"rows_read": 84, "dropped_held_out": 5, "rows_kept": 79}
    assert record.facts["held_out"] == read_record(held_out).digest
    assert [row["prompt"] for row in read_trajectories(out)] == [f"{n}+1=" for n in range(21, 100)]


@pytest.mark.parametrize("kind", ["problems", "trajectories"])
def test_held_out_problems_are_an_error_above_the_share(tmp_path, held_out, kind):
    rows = [(problem if kind == "problems" else demo)(n) for n in range(16, 26)]
    mentions = ["rows.jsonl:1", "the held-out problem 'held-16'", "5 of 10 rows, 50.0%", "raise max_contaminated"]
    refuse(tmp_path, rows, *mentions, kind=kind, parents={"held_out": [held_out]})


def test_a_parent_of_the_wrong_kind_or_name(tmp_path, held_out):
    refuse(tmp_path, GOOD, "a problems artifact", "where a trajectories is needed", error=ContractError,
           parents={"replay": [held_out]}, kind="trajectories")  # fmt: skip
    refuse(tmp_path, GOOD, "no parent is called 'heldout'; did you mean 'held_out'?", error=ContractError,
           parents={"heldout": [held_out]})  # fmt: skip
    refuse(tmp_path, GOOD, "2 parents 'held_out', at most 1", error=ContractError,
           parents={"held_out": [held_out, held_out]})  # fmt: skip


def test_everything_at_once_adds_up(tmp_path, held_out):
    rows = [
        *(problem(n) for n in range(10, 60)),  # 11 of them held out
        *(problem(n) for n in range(50, 60)),  # again
        "{",
        problem(70, prompt=""),
        problem(71, id="row-1"),
        problem(50, reference="another answer"),  # no duplicate
    ]
    settings = {"max_malformed": 0.1, "max_contaminated": 0.3}
    out = prepared(tmp_path / "out", rows, parents={"held_out": [held_out]}, **settings)
    counts = read_record(out).counts
    assert counts == {
        "rows_read": 64,
        "dropped_malformed": 1,
        "dropped_unusable": 2,
        "dropped_duplicate": 10,
        "dropped_held_out": 11,
        "rows_kept": 40,
    }
    assert len(read_problems(out)) == 40


def test_a_limit_is_counted_too_and_keeps_the_order(tmp_path):
    out = prepared(tmp_path / "out", GOOD, limit=20)
    record = read_record(out)
    assert record.counts == {"rows_read": 199, "rows_kept": 20, "dropped_limit": 179}
    assert (record.facts["rows"], record.metrics["rows_kept"]) == (20, 20)
    numbers = [int(problem.prompt.split("+")[0]) for problem in read_problems(out)]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 20


def test_problems_arrive_as_they_were(tmp_path):
    rows = [
        problem(1, id="a", slice="easy", reference={"numbers": [1, 2], "target": 3}, verifier="countdown", extra=1),
        problem(2, id=7),
    ]
    first, second = read_problems(prepared(tmp_path / "out", rows))
    assert (first.id, first.slice, first.reference) == ("a", "easy", {"numbers": [1, 2], "target": 3})
    assert (second.id, second.slice, second.reference) == ("7", "all", "3")


def test_messages_with_other_keys_arrive_as_they_were(tmp_path):
    prompts = [[{"role": "user", "content": "1", "name": "Ann"}], [{"role": "user", "content": "2"}]]
    out = prepared(tmp_path / "out", [problem(n, prompt=prompt) for n, prompt in enumerate(prompts)])
    assert [problem.prompt for problem in read_problems(out)] == prompts


@pytest.mark.parametrize("change", [{}, {"limit": 50}, {"limit": 50, "seed": 1}])
def test_the_same_input_gives_the_same_digest(tmp_path, change):
    digests = [read_record(prepared(tmp_path / name, GOOD, **change)).digest for name in ("first", "second")]
    assert digests[0] == digests[1]
    assert digests[0] != read_record(prepared(tmp_path / "other", GOOD[1:], **change)).digest
    if change.get("seed"):
        assert digests[0] != read_record(prepared(tmp_path / "seed", GOOD, limit=50)).digest


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    directory = tmp_path_factory.mktemp("policies")
    return based(directory / "policy", tiny_policy(directory / "model", "gpt2"))


@pytest.fixture
def replay(tmp_path, policy):
    problems = prepared(tmp_path / "replayed", [problem(n) for n in range(1000, 1007)])
    rows = [{**demo(n), "logprobs": [-1.0], "reward": 1.0} for n in range(1000, 1007)]
    return rolled_out(tmp_path / "replay", policy, problems, rows)


DEMOS = [demo(n) for n in range(1, 31)]


@pytest.mark.parametrize(("share", "wanted"), [(0, 0), (0.1, 3), (0.25, 10), (0.5, 30), (0.9, 270)])
def test_replay_makes_up_its_share_exactly(tmp_path, policy, replay, share, wanted):
    out = prepared(tmp_path / "out", DEMOS, "trajectories", {"replay": [replay]}, replay_share=share)
    rows = read_trajectories(out)
    own = [row for row in rows if row.get("sampler") == read_record(policy).digest]
    assert (len(own), len(rows)) == (wanted, 30 + wanted)
    assert len(own) / len(rows) == pytest.approx(share, abs=0.5 / len(rows))
    often = {prompt: sum(row["prompt"] == prompt for row in own) for prompt in {row["prompt"] for row in own}}
    assert not own or max(often.values()) - min(often.values()) <= 1
    assert read_record(out).counts["replay_rows"] == wanted
    assert sorted(row["prompt"] for row in rows if not row.get("sampler")) == sorted(row["prompt"] for row in DEMOS)


def test_mixing_is_shuffled_and_the_same_every_time(tmp_path, replay):
    made = [
        read_record(
            prepared(tmp_path / name, DEMOS, "trajectories", {"replay": [replay]}, seed=seed, source="demos")
        ).digest
        for name, seed in (("first", 0), ("second", 0), ("third", 1))
    ]
    assert made[0] == made[1] != made[2]
    sources = [row["source"] for row in read_trajectories(tmp_path / "first")]
    assert sources != sorted(sources)
    assert sources != sorted(sources, reverse=True)


def test_replay_of_held_out_problems_is_dropped_and_counted(tmp_path, policy, held_out):
    problems = prepared(tmp_path / "replayed", [problem(n) for n in range(18, 28)])
    replay = rolled_out(tmp_path / "replay", policy, problems, [demo(n) for n in range(18, 28)])
    parents = {"held_out": [held_out], "replay": [replay]}
    out = prepared(tmp_path / "out", [demo(n) for n in range(50, 60)], "trajectories", parents)
    assert read_record(out).counts["replay_held_out"] == 3
    assert {row["prompt"] for row in read_trajectories(out)}.isdisjoint(f"{n}+1=" for n in range(1, 21))
    only = rolled_out(tmp_path / "only", policy, problems, [demo(1)])
    refuse(tmp_path, DEMOS[25:], "every row's prompt is a held-out problem", kind="trajectories",
           parents={"held_out": [held_out], "replay": [only]})  # fmt: skip


def test_replay_that_does_not_fit(tmp_path, replay):
    messages = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    refuse(tmp_path, GOOD, "not into problems", error=ContractError, parents={"replay": [replay]})
    refuse(tmp_path, messages, "messages rows cannot be mixed with prompt-completion replay", kind="trajectories",
           error=ContractError, parents={"replay": [replay]})  # fmt: skip
    chat = [{"prompt": messages[0]["messages"][:1], "completion": messages[0]["messages"][1:]}]
    refuse(tmp_path, chat, "text and messages cannot be mixed", kind="trajectories", error=ContractError,
           parents={"replay": [replay]})  # fmt: skip


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_other_formats_give_the_same_artifact(tmp_path, suffix):
    import pyarrow
    import pyarrow.parquet
    from posttrain.components.prepare.stage import STAGE

    from posttrain.stage import execute

    file = tmp_path / f"rows.{suffix}"
    if suffix == "json":
        file.write_text(json.dumps(GOOD))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(GOOD), file)
    record = execute(STAGE, {}, {"uri": f"file://{file}", "kind": "problems"}, tmp_path / "out")
    assert record.digest == read_record(prepared(tmp_path / "lines", GOOD)).digest
