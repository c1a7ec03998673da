"""Search: what is picked, what it costs, what it gains, and which methods go with which judges."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from posttrain.components.evaluate.measure import measure_all
from posttrain.components.search import stage
from posttrain.components.search.beam import BeamSearch, given_up
from posttrain.components.search.pick import Gap, best, softmax, vote

from posttrain.artifacts.artifact import open_artifact
from posttrain.artifacts.problems import Problem
from posttrain.artifacts.trajectories import read_trajectories
from posttrain.errors import ConfigError, ContractError, DataError, VerifierError
from posttrain.generation.decoding import Completion, Decoding
from posttrain.generation.settings import sampling
from posttrain.generation.tokenizer import load_tokenizer
from posttrain.progress import Progress
from posttrain.taxonomy import Kind
from posttrain.verifiers import Verdict
from posttrain.verifiers.verdict import NOT_FOUND, UNSCORABLE
from tests.generation import vllm_parts as parts
from tests.made import refused
from tests.training.jobs import base, prepared, record, run

SOME: dict[str, Any] = {"samples": 4, "expand": 2, "max_new_tokens": 8, "temperature": 1.0}
RIGHT, WRONG = Verdict(1.0, "1"), Verdict(0.0, "2")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy, problems, and judges that nobody should trust."""
    home = tmp_path_factory.mktemp("search")
    base(home / "policy", "llama", characters="0123abc;?\n", initializer_range=0.02)
    rows = [{"prompt": f"{n}?", "verifier": "exact", "reference": "a"} for n in "0123"]
    prepared(home / "problems", rows, "problems")
    patterns = [row | {"verifier": "regex", "reference": {"pattern": "a+"}} for row in rows]
    prepared(home / "patterns", patterns, "problems")
    steps = [{"prompt": f"{n}?", "completions": ["a;", "b"], "labels": [1.0, 0.0]} for n in "0123"]
    data = prepared(home / "steps", steps, "trajectories")
    brief = {"max_steps": 1, "learning_rate": 1e-3}
    run("process_reward_model", home / "steps_judge", brief | {"separator": ";"}, init=home / "policy", data=data)
    pairs = prepared(
        home / "pairs", [{"prompt": f"{n}?", "chosen": "a", "rejected": "b"} for n in "0123"], "trajectories"
    )
    run("reward_model", home / "judge", brief, init=home / "policy", data=pairs)
    return home


def searched(home: Path, out: Path, method: str, **judge: Path) -> Path:
    settings = SOME | {"method": method}
    return run("search", out, settings, policy=home / "policy", problems=home / "problems", **judge)


def test_votes_count_answers_and_weigh() -> None:
    assert vote(["1", "2", "2", None], [1, 1, 1, 5]) == 1
    assert vote(["1", "2"], [1, 1]) == 0, "the first of equals"
    assert vote(["1", "2", "2"], [5, 1, 2]) == 0
    assert vote(["1", "2", "2"], [2.5, 1, 2]) == 2, "the heaviest sample of the answer"
    assert vote([None, None], [1, 1]) is None
    assert best([0.1, 0.7, 0.7]) == 1
    weights = softmax([-1000.0, -1001.0])
    assert sum(weights) == pytest.approx(1)
    assert weights[0] / weights[1] == pytest.approx(2.718281828)


def test_the_gap_is_paired_and_leaves_out_what_cannot_be_scored() -> None:
    samples = [[RIGHT, WRONG], [WRONG, NOT_FOUND], [RIGHT, UNSCORABLE], [UNSCORABLE, UNSCORABLE]] * 3
    gap = Gap.of([RIGHT, WRONG, RIGHT, UNSCORABLE] * 3, samples, seed=0)
    assert gap.accuracy.estimate == pytest.approx(2 / 3)
    assert gap.pass_at_1.estimate == pytest.approx(0.5)
    assert gap.oracle.estimate == pytest.approx(2 / 3)
    assert gap.gap.estimate == pytest.approx(0.5 / 3)
    assert gap.gap.low < gap.gap.estimate < gap.gap.high


@pytest.mark.parametrize(
    ("method", "role", "judge"),
    [
        ("majority", "", ""),
        ("best_of_n", "reward_model", "judge"),
        ("weighted_majority", "reward_model", "judge"),
        ("best_of_n", "process_reward_model", "steps_judge"),
        ("weighted_majority", "process_reward_model", "steps_judge"),
        ("beam", "process_reward_model", "steps_judge"),
    ],
)
def test_every_method_makes_one_trace_a_problem(home: Path, tmp_path: Path, method: str, role: str, judge: str) -> None:
    judges = {role: home / judge} if role else {}
    made = record(searched(home, tmp_path / "traces", method, **judges))
    assert made.facts["verifiers"].startswith("exact@")
    rows = read_trajectories(tmp_path / "traces")
    assert [row["problem_id"] for row in rows] == [row["problem_id"] for row in rows if row["source"] == "search"]
    assert (len(rows), made.counts["samples"]) == (4, 16)
    assert {row["sampler"] for row in rows} == {record(home / "policy").digest}
    spent, plainly = made.metrics["tokens_per_problem"], made.metrics["plain_tokens_per_problem"]
    assert spent == plainly if method != "beam" else spent > 0
    assert made.metrics["gap"] == pytest.approx(made.metrics["accuracy"] - made.metrics["pass_at_1"])
    again = record(searched(home, tmp_path / "again", method, **judges))
    assert made.digest == again.digest


def test_beams_grow_by_whole_steps_towards_the_score(home: Path) -> None:
    policy = open_artifact(home / "policy", Kind.POLICY)
    tokenizer = load_tokenizer(policy.path)
    problems = [Problem(id=n, prompt=f"{n}?", verifier="exact", reference="a") for n in "0123"]
    seen: list[str] = []

    def letters(prefixes: Any) -> list[float]:
        seen.extend(text for _, text in prefixes)
        return [text.count("a") / max(1, len(text)) for _, text in prefixes]

    decoding = Decoding(samples=16, max_new_tokens=10, seed=1)
    with sampling(policy, 12, stage.SearchSettings()) as sample:
        search = BeamSearch(sample, tokenizer, letters, ";", decoding, expand=4, most_steps=20)
        found = search(problems, Progress("test"))
        short = BeamSearch(sample, tokenizer, letters, ";", decoding, expand=4, most_steps=1)
        assert all(given_up(beam).finish != "stop" for beam in short(problems, Progress("test")))
    plain = sum(text.count("a") for text in seen) / sum(map(len, seen))
    for beam in found:
        assert beam.so_far.text.count("a") / max(1, len(beam.so_far.text)) == beam.score > plain
        assert len(beam.so_far.tokens) == len(beam.so_far.logprobs) <= 10
        assert given_up(beam).finish in ("eos", "length")
        ended = beam.so_far.finish == "eos"
        tokens = beam.so_far.tokens[: -1 if ended else None]
        assert tokenizer.decode(tokens, skip_special_tokens=True) == beam.so_far.text
    assert search.tokens >= sum(len(beam.so_far.tokens) for beam in found)


@pytest.mark.parametrize(
    ("settings", "judges", "error", "complaint"),
    [
        ({"method": "majority"}, ["judge"], ContractError, "method=majority takes no judge, not reward_model"),
        ({"method": "best_of_n"}, [], ContractError, "takes one of reward_model, process_reward_model, not none"),
        ({"method": "best_of_n"}, ["judge", "steps_judge"], ContractError, "not reward_model and process_reward_model"),
        ({"method": "beam"}, ["judge"], ContractError, "takes one of process_reward_model, not reward_model"),
        ({"method": "beam", "expand": 3}, ["steps_judge"], ConfigError, "samples=4 is not a multiple of expand=3"),
        ({"method": "majority", "temperature": 0.0}, [], ConfigError, "temperature=0 makes all samples the same"),
        ({"method": "majority", "max_new_tokens": 200}, [], ContractError, "exceed the policy's context"),
    ],
)
def test_methods_and_judges_go_together(
    home: Path, tmp_path: Path, settings: dict[str, Any], judges: list[str], error: Any, complaint: str
) -> None:
    roles = {"judge": "reward_model", "steps_judge": "process_reward_model"}
    parents = {"policy": [home / "policy"], "problems": [home / "problems"]}
    parents |= {roles[judge]: [home / judge] for judge in judges}
    refused("search", parents, SOME | settings, tmp_path / "x" / "out", error, complaint)


@pytest.mark.skipif(parts.REAL, reason="the attention of vLLM takes no heads as small as these")
@pytest.mark.parametrize("backend", ["vllm", "server"])
def test_beams_grow_with_every_engine(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", parts.module())
    policy = open_artifact(home / "policy", Kind.POLICY)
    with parts.serving(parts.Server(policy.path, [policy.digest[:12]], 128)) as server:
        where = {"server_url": server.url} if backend == "server" else {}
        settings = SOME | {"method": "beam", "backend": backend, "samples": 8} | where
        parents = {
            "policy": home / "policy",
            "problems": home / "problems",
            "process_reward_model": home / "steps_judge",
        }
        rows = read_trajectories(run("search", tmp_path / "out", settings, **parents))
    assert len(rows) == 4 and {row["finish"] for row in rows} <= {"eos", "length"}
    assert all(0 < len(row["logprobs"]) <= 8 for row in rows)
    assert any(";" in row["completion"] for row in rows), "some went on after a step"


def test_votes_may_not_tell_which_answer_is_right(home: Path, tmp_path: Path) -> None:
    parents = {"policy": [home / "policy"], "problems": [home / "patterns"]}
    refused(
        "search", parents, SOME, tmp_path / "x" / "out", ContractError, "regex names answers by what is right in them"
    )
    run("search", tmp_path / "out", SOME | {"method": "best_of_n"}, policy=home / "policy", problems=home / "patterns",
        reward_model=home / "judge")  # fmt: skip


def test_votes_may_not_count_what_was_followed(home: Path, tmp_path: Path) -> None:
    """The answer of `instructions` is its verdict."""
    rule = {"verifier": "instructions", "reference": {"constraints": [{"id": "no_commas"}]}}
    problems = prepared(tmp_path / "rules", [{"prompt": f"{n}?", **rule} for n in "0123"], "problems")
    parents = {"policy": [home / "policy"], "problems": [problems]}
    refused("search", parents, SOME, tmp_path / "x" / "out", ContractError, "instructions names answers by")


@pytest.mark.parametrize(
    ("verifier", "separator", "error", "complaint"),
    [
        ("exact", "ab", DataError, "no token of the policy holds the separator 'ab'"),
        ("judge", ";", VerifierError, "POSTTRAIN_JUDGE_URL is not set"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_sampled(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verifier: str,
    separator: str,
    error: Any,
    complaint: str,
) -> None:
    monkeypatch.delenv("POSTTRAIN_JUDGE_URL", raising=False)
    monkeypatch.setattr(stage, "sample_problems", lambda *_: pytest.fail("sampled first"))
    steps = [{"prompt": f"{n}?", "completions": ["a;", "b"], "labels": [1.0, 0.0]} for n in "0123"]
    data = prepared(tmp_path / "steps", steps, "trajectories")
    settings = {"max_steps": 1, "separator": separator}
    judge = run("process_reward_model", tmp_path / "judge", settings, init=home / "policy", data=data)
    reference: Any = {"criteria": "short"} if verifier == "judge" else "a"
    rows = [{"prompt": "0?", "verifier": verifier, "reference": reference}]
    problems = prepared(tmp_path / "asked", rows, "problems")
    parents = {"policy": [home / "policy"], "problems": [problems], "process_reward_model": [judge]}
    refused("search", parents, SOME | {"method": "beam"}, tmp_path / "x" / "out", error, complaint)


def test_verifiers_see_the_last_message_as_everywhere_else() -> None:
    reference = {"constraints": [{"id": "repeat_prompt"}]}
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say it."}]
    asked = Problem(id="p", prompt=prompt, verifier="instructions", reference=reference)
    said = [Completion("Say it. It.", [], [], "eos")]
    assert [[verdict.score for verdict in each] for each in stage.judged([asked], [said])] == [[1.0]]
    assert measure_all([asked], [said], [[]])[0].scores == [1.0]
