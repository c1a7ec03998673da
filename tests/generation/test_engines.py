"""The engines against each other, field by field; vLLM is the installed one if there is one, else a stand-in."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from posttrain.components.catalogue import load_stage

from posttrain import connections
from posttrain.artifacts.artifact import Artifact, open_artifact
from posttrain.artifacts.problems import read_problems
from posttrain.artifacts.trajectories import read_trajectories
from posttrain.errors import ConfigError, DataError, PolicyError, ServerError
from posttrain.generation.decoding import Completion, Decoding
from posttrain.generation.settings import SamplingSettings, sample_prompts, sampling
from posttrain.generation.tokenizer import render
from posttrain.generation.transformers import load_policy
from posttrain.progress import Progress
from posttrain.settings import parse_settings
from posttrain.stage import execute
from posttrain.taxonomy import Kind
from tests.generation import vllm_parts as parts
from tests.made import based, prepared, problem
from tests.tiny import CONTEXT, tiny_policy

Sampler = Callable[..., list[list[Completion]]]
PROMPTS = ["12+3=", "a", "hello world, what is this?\n", "Count: 1 2 3", "b" * (CONTEXT - 3)]
OTHERS = ["vllm", "server"]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Its generation config names a second EOS, and a way to sample that no engine may follow."""
    root = tmp_path_factory.mktemp("policy")
    # Heads of 32: vLLM's attention on a CPU takes no smaller ones.
    model = tiny_policy(root / "model", "qwen2", chat_template=True, hidden_size=64, num_attention_heads=2)
    own = {"eos_token_id": [1, 40], "do_sample": True, "temperature": 0.1, "top_k": 3, "repetition_penalty": 5.0}
    (model / "generation_config.json").write_text(json.dumps(own))
    return open_artifact(based(root / "policy", model), Kind.POLICY)


@pytest.fixture(scope="module")
def url(policy: Artifact) -> Iterator[str]:
    name = policy.digest[:12]
    if parts.REAL:
        with parts.vllm_serve(policy.path, name, CONTEXT) as found:  # and its generation config in force
            yield found
    else:
        with parts.serving(parts.Server(policy.path, [name], CONTEXT)) as server:
            yield server.url


@pytest.fixture
def chosen(url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SamplingSettings]:
    """Settings of a stage that samples, and the engines that they name."""
    if not parts.REAL:
        monkeypatch.setitem(sys.modules, "vllm", parts.module())
    for name, value in parts.ON_A_CPU.items():
        monkeypatch.setenv(name, value)

    def settings(backend: str, **values: Any) -> SamplingSettings:
        extra = {"server": {"server_url": url}, "vllm": {"vllm": {"enforce_eager": True}}}.get(backend, {})
        return SamplingSettings(**{"backend": backend, "samples": 6, "max_new_tokens": 24, **extra, **values})

    return settings


@pytest.fixture
def draw(policy: Artifact, chosen: Callable[..., SamplingSettings]) -> Sampler:
    """Samples as a stage does."""

    def sample(backend: str, prompts: list[Any], of: Artifact = policy, **values: Any) -> list[list[Completion]]:
        return sample_prompts(of, prompts, chosen(backend, **values), Progress("test"), "prompt")

    return sample


def teacher_forced(model: Any, prompt: list[int], completion: list[int]) -> list[float]:
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + completion]), use_cache=False).logits[0].float()
    picked = logits[len(prompt) - 1 : -1].log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])
    return picked[:, 0].tolist()


def tokens(drawn: list[list[Completion]]) -> list[list[list[int]]]:
    return [[completion.tokens for completion in completions] for completions in drawn]


@pytest.mark.parametrize("backend", OTHERS)
def test_the_schema_is_the_transformers_engines(policy: Artifact, draw: Sampler, backend: str) -> None:
    messages = [{"role": "user", "content": "1+1?"}]
    prompts = [*PROMPTS, messages]
    model, tokenizer = load_policy(policy.path, "cpu")
    theirs = draw(backend, prompts, temperature=1.3, top_k=40)
    ours = draw("transformers", prompts, temperature=1.3, top_k=40)
    assert [len(rows) for rows in theirs] == [len(rows) for rows in ours] == [6] * 6
    for prompt, drawn, mine in zip(prompts, theirs, ours, strict=True):
        ids = render(tokenizer, prompt)
        room = min(24, CONTEXT - len(ids))
        for completion in [*drawn, *mine]:
            kinds = {f.name: type(getattr(completion, f.name)) for f in fields(Completion)}
            assert kinds == {"text": str, "tokens": list, "logprobs": list, "finish": str}
            assert {type(t) for t in completion.tokens} == {int} and {type(p) for p in completion.logprobs} == {float}
            ended = completion.tokens[-1] in (1, 40)
            assert not {1, 40} & set(completion.tokens[:-1])
            assert completion.finish == ("eos" if ended else "length")
            assert ended or len(completion.tokens) == room
            shown = completion.tokens[:-1] if ended else completion.tokens
            assert completion.text == tokenizer.decode(shown, skip_special_tokens=True)
            # Of the policy itself: not of what temperature and top-k made of it.
            assert completion.logprobs == pytest.approx(teacher_forced(model, ids, completion.tokens), abs=3e-4)
    finishes = {completion.finish for rows in theirs for completion in rows}
    assert finishes == {"eos", "length"}
    assert len({tuple(completion.tokens) for completion in theirs[0]}) > 1


@pytest.mark.parametrize("backend", OTHERS)
def test_greedy_is_the_same_completion(draw: Sampler, backend: str) -> None:
    theirs, ours = draw(backend, PROMPTS, temperature=0), draw("transformers", PROMPTS, temperature=0)
    assert tokens(theirs) == tokens(ours)
    assert [[c.text for c in rows] for rows in theirs] == [[c.text for c in rows] for rows in ours]


@pytest.mark.parametrize("backend", ["transformers", *OTHERS])
def test_token_ids_are_gone_on_from_as_they_are(policy: Artifact, draw: Sampler, backend: str) -> None:
    _, tokenizer = load_policy(policy.path, "cpu")
    prompts = [render(tokenizer, prompt) for prompt in PROMPTS[:3]]
    whole = [rows[0].tokens for rows in draw("transformers", prompts, temperature=0)]
    assert whole == [rows[0].tokens for rows in draw("transformers", PROMPTS[:3], temperature=0)]
    begun = [prompt + tokens[:2] for prompt, tokens in zip(prompts, whole, strict=True)]
    gone_on = [rows[0].tokens for rows in draw(backend, begun, temperature=0, max_new_tokens=22)]
    assert gone_on == [tokens[2:] for tokens in whole]


@pytest.mark.parametrize("backend", OTHERS)
def test_a_loaded_policy_is_sampled_again_with_stops_and_rooms(
    policy: Artifact, chosen: Callable[..., SamplingSettings], backend: str
) -> None:
    _, tokenizer = load_policy(policy.path, "cpu")
    prompts = [render(tokenizer, prompt) for prompt in PROMPTS[:3]]
    greedy = Decoding(samples=1, max_new_tokens=8, temperature=0)

    def sampled(by: str) -> list[list[Completion]]:
        with sampling(policy, CONTEXT, chosen(by)) as sample:
            [[first], *_] = sample(prompts, greedy, (), [8, 8, 8])
            return sample(prompts, greedy, first.tokens[1:2], [8, 2, 3])

    theirs, ours = sampled(backend), sampled("transformers")
    assert [(c.text, c.tokens, c.finish) for [c] in theirs] == [(c.text, c.tokens, c.finish) for [c] in ours]
    assert theirs[0][0].finish == "stop" and len(theirs[0][0].tokens) <= 2
    assert [len(c.tokens) <= room for [c], room in zip(theirs[1:], (2, 3), strict=True)] == [True, True]


def test_a_seed_fixes_the_draws_in_process_and_on_a_server(draw: Sampler) -> None:
    first = tokens(draw("server", PROMPTS, seed=5))
    assert tokens(draw("vllm", PROMPTS, seed=5)) == first
    assert tokens(draw("server", PROMPTS[:2], seed=5, batch_rows=6)) == first[:2], "draws must not depend on the batch"
    assert tokens(draw("server", PROMPTS, seed=6)) != first
    more = tokens(draw("server", PROMPTS[:1], seed=5, samples=9))
    assert more[0][:6] == first[0], "more samples must extend, not replace"
    [one, other] = draw("server", ["a", "a"], seed=5)
    assert one != other, "the same prompt twice is two prompts"


@pytest.mark.parametrize("backend", OTHERS)
def test_wrong_prompts_and_diverged_policies_have_the_same_errors(draw: Sampler, backend: str) -> None:
    assert draw(backend, []) == []
    with pytest.raises(DataError, match=f"prompt 1: {CONTEXT} tokens leave no room .* context of {CONTEXT}"):
        draw(backend, ["a", "a" * CONTEXT])
    with pytest.raises(DataError, match="prompt 0: no tokens"):
        draw(backend, [""])


def diverged(root: Path) -> Artifact:
    directory = tiny_policy(root / "nan", "qwen2", hidden_size=64, num_attention_heads=2)
    model, _ = load_policy(directory, "cpu")
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    model.save_pretrained(directory)
    return open_artifact(based(root / "diverged", directory), Kind.POLICY)


@pytest.mark.skipif(parts.REAL, reason="a diverged policy ends vLLM's engine in its own ways")
def test_a_diverged_policy_is_named(draw: Sampler, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="NaN or infinite"):
        draw("vllm", ["a"], of=diverged(tmp_path))


def test_progress_counts_prompts_and_the_engine_is_shut_down(
    policy: Artifact, draw: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(Progress, "update", lambda self, done, total, what="": seen.append((done, total)))
    if not parts.REAL:
        made: list[Any] = []
        monkeypatch.setattr(parts.LLM, "shutdown", lambda self: made.append(self))
    draw("vllm", PROMPTS)
    assert seen == [(n, 5) for n in range(1, 6)]
    assert parts.REAL or len(made) == 1


def test_without_vllm_the_remedy_is_named(draw: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"vLLM cannot be loaded here .*; run the stage on an image with"):
        draw("vllm", ["a"])


class TestServerFaults:
    """The stand-in does wrong what servers do wrong."""

    @pytest.fixture
    def server(self, policy: Artifact, monkeypatch: pytest.MonkeyPatch) -> Iterator[parts.Server]:
        monkeypatch.setattr(connections, "PAUSE_S", 0.001)
        with parts.serving(parts.Server(policy.path, [policy.digest[:12]], CONTEXT)) as server:
            yield server

    @pytest.mark.parametrize(
        "fault", [parts.busy, parts.reset, parts.slow, parts.drips, parts.cut_short], ids=lambda f: f.__name__
    )
    def test_passing_faults_are_waited_out(self, draw: Sampler, server: parts.Server, fault: Any) -> None:
        expected = draw("server", PROMPTS, server_url=server.url)
        server.faults += [fault] * 3
        late = fault in (parts.slow, parts.drips)
        assert draw("server", PROMPTS, server_url=server.url, server_timeout=0.4 if late else 60) == expected
        assert server.faults == []

    def test_a_fault_that_stays_is_a_server_error(self, draw: Sampler, server: parts.Server) -> None:
        server.faults += [parts.busy] * 100
        with pytest.raises(ServerError, match=r"/v1/models failed 7 times, last with: 503 overloaded; is it running"):
            draw("server", PROMPTS, server_url=server.url)
        assert (len(server.asked), ServerError.exit_code) == (7, 75)
        server.faults.clear()
        with pytest.raises(ServerError, match="failed 7 times"):
            draw("server", PROMPTS, server_url="http://127.0.0.1:9")

    def test_a_refusal_is_not_asked_again(
        self, draw: Sampler, server: parts.Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.key = "secret"
        with pytest.raises(ConfigError, match="401 Unauthorized; set VLLM_API_KEY"):
            draw("server", PROMPTS, server_url=server.url)
        assert len(server.asked) == 1
        monkeypatch.setenv("VLLM_API_KEY", "secret")
        assert len(draw("server", PROMPTS, server_url=server.url + "/v1/")) == len(PROMPTS)

    @pytest.mark.parametrize("what", ["token_ids", "logprobs"])
    def test_an_answer_without_its_tokens_is_refused(self, draw: Sampler, server: parts.Server, what: str) -> None:
        server.without = what
        with pytest.raises(ConfigError, match="lack token ids or log-probabilities; serve the policy with vLLM"):
            draw("server", PROMPTS, server_url=server.url)

    def test_processed_logprobs_are_refused(self, draw: Sampler, server: parts.Server) -> None:
        server.processed = True
        with pytest.raises(ConfigError, match="log-probabilities after temperature; serve with"):
            draw("server", PROMPTS, server_url=server.url)

    def test_under_another_name_the_numbers_decide(
        self, policy: Artifact, draw: Sampler, server: parts.Server, tmp_path: Path
    ) -> None:
        server.names = ["my-model"]
        assert len(draw("server", PROMPTS, server_url=server.url)) == len(PROMPTS)
        other = tiny_policy(tmp_path / "other", "qwen2", seed=1, hidden_size=64, num_attention_heads=2)
        with (
            parts.serving(parts.Server(other, ["my-model"], CONTEXT)) as wrong,
            pytest.raises(ConfigError, match=r"'my-model' is not the policy 'policy' .* [\d.]+ nats a token"),
        ):
            draw("server", PROMPTS, server_url=wrong.url)

    def test_what_is_clearly_another_model_is_refused(self, draw: Sampler, server: parts.Server) -> None:
        server.names = ["one", "two"]
        with pytest.raises(ConfigError, match="serves one, two, and none by the digest of the policy 'policy'"):
            draw("server", PROMPTS, server_url=server.url)
        server.names, server.context = ["one"], 2 * CONTEXT
        with pytest.raises(ConfigError, match=f"context of {2 * CONTEXT} tokens, the policy one of {CONTEXT}"):
            draw("server", PROMPTS, server_url=server.url)
        server.context = 20
        with pytest.raises(ConfigError, match=f"serve it with --max-model-len {CONTEXT}, or lower max_new_tokens"):
            draw("server", PROMPTS, server_url=server.url)


def test_a_stage_samples_from_a_server_and_records_it(policy: Artifact, url: str, tmp_path: Path) -> None:
    problems = prepared(tmp_path / "problems", [problem(n) for n in range(3)])
    settings = {"backend": "server", "server_url": url, "samples": 2.0, "max_new_tokens": 4.0}  # as KFP sends numbers
    parents = {"policy": [policy.path], "problems": [problems]}
    record = execute(load_stage("rollout"), parents, settings, tmp_path / "out")
    rows = read_trajectories(tmp_path / "out")
    assert [row["problem_id"] for row in rows] == [row.id for row in read_problems(problems) for _ in range(2)]
    assert {row["sampler"] for row in rows} == {policy.digest}
    assert (record.parameters["backend"], record.parameters["server_url"]) == ("server", url)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "server"}, "server with server_url=''; give the server's URL"),
        ({"server_url": "http://localhost:1"}, "backend=transformers with server_url='.*; choose backend=server"),
        ({"backend": "server", "server_url": "localhost:1"}, "is no URL"),
        ({"backend": "server", "server_url": "http://me:key@localhost:1"}, "holds credentials.*VLLM_API_KEY"),
        ({"vllm": {"enforce_eager": True}}, "backend=transformers with settings for vllm; choose backend=vllm"),
        ({"backend": "vllm", "vllm": {"quantization": "fp8"}}, "unknown setting vllm.quantization"),
        ({"backend": "tgi"}, "backend='tgi'"),
    ],
    ids=str,
)
def test_contradictory_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^rollout: .*{message}"):
        parse_settings(SamplingSettings, settings, "rollout")
    assert parse_settings(SamplingSettings, {"backend": "vllm", "vllm": {"tensor_parallel_size": 2.0}}, "rollout")
