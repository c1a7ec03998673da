"""Hints: given as context, judged as part of the answer, never trained on, and fewer and fewer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from posttrain.artifacts.problems import Problem
from posttrain.errors import ContractError
from posttrain.training.hints import GivesHints, hints_for
from tests.made import refused
from tests.tiny import tiny_tokenizer
from tests.training.jobs import answered, base, chat, prepared, record, run

WORDS = [{"id": f"p{n}", "prompt": f"{n}:", "verifier": "exact", "reference": "abcd"} for n in range(4)]
BRIEF: dict[str, Any] = {"batch_size": 8, "group_size": 4, "max_new_tokens": 4, "logging_steps": 1, "max_steps": 4}
ONE = {"prompt": "0:", "completion": "abcd"}


def problems(rows: list[dict[str, Any]]) -> list[Problem]:
    return [Problem(**row) for row in rows]


def test_demonstrations_find_their_problem_by_id_or_prompt() -> None:
    rows = [
        {"prompt": "2:", "completion": "by prompt"},
        {"prompt": "else", "completion": "by id", "problem_id": "p0"},
        {"prompt": "0:", "completion": "a second", "problem_id": "p0"},
        {"prompt": "1:", "completion": "wrong", "reward": 0.0},
        {"prompt": "3:", "completion": "not wanted"},
        {"prompt": "9:", "completion": "nobody's"},
    ]
    hints, counts = hints_for(problems(WORDS), rows, {"p0", "p1", "p2"})
    assert hints == {"p2": "by prompt", "p0": "by id"}
    assert counts == {"hinted_problems": 2, "unhinted_problems": 1, "unused_hints": 4}
    messages = [{**ONE, "completion": [{"role": "assistant", "content": "said"}]}]
    assert hints_for(problems(WORDS), messages, {"p0"})[0] == {"p0": "said"}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"text": "0:abcd"}, "hints have columns ['text']"),
        ({"prompt": "9:", "completion": "abcd"}, "none of 1 hints is a right answer to one of the 4 problems"),
        ({**ONE, "reward": 0.5}, "none of 1 hints is a right answer"),
        ({**ONE, "completion": [{"role": "assistant", "content": "a"}] * 2}, "hint 1 has 2 messages"),
    ],
)
def test_what_is_no_demonstration_is_refused(row: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ContractError) as refusal:
        hints_for(problems(WORDS), [row], {"p0", "p1", "p2", "p3"})
    assert complaint in str(refusal.value)


class FakeTrainer:
    """Rollouts that go on with `x`, whatever they start from, and rewards that are what was judged."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer, self._metrics = tokenizer, {"train": {"hinted": []}}
        self.args, self.state = SimpleNamespace(seed=0), SimpleNamespace(global_step=0, max_steps=10)
        self.accelerator = SimpleNamespace(device="cpu", reduce=lambda values, reduction: values)

    def _tokenize_prompts(self, prompts: Any) -> Any:
        return [self._tokenizer(text=prompt)["input_ids"] for prompt in prompts], None, {}

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, ids: Any) -> Any:
        return completions

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        prompt_ids, *_ = self._tokenize_prompts([row["prompt"] for row in inputs])
        end = [self._tokenizer("x")["input_ids"] + [self._tokenizer.eos_token_id]] * len(inputs)
        completions = [row.get("completion", "x") for row in inputs]
        return prompt_ids, end, self._calculate_rewards(inputs, prompt_ids, completions, end)


class Fake(GivesHints, FakeTrainer):
    pass


def test_the_hint_is_context_and_the_whole_answer_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer()
    trainer = Fake(tokenizer, hints={1: "abcd"}, hint_share=1.0, hint_until=0.5)
    monkeypatch.setattr(trainer, "_drawn", lambda problem: 1.0)
    rows = [{"problem": 0, "prompt": "0:"}, {"problem": 1, "prompt": "1:"}]
    given = {}
    for step in range(7):
        trainer.state.global_step = step
        prompts, completions, judged = trainer._generate_and_score_completions(rows)
        assert [tokenizer.decode(ids) for ids in completions] == ["x<eos>"] * 2, "trained on: its own tokens"
        assert judged[0] == "x"
        assert tokenizer.decode(prompts[1]) == "1:" + judged[1].removesuffix("x")
        given[step] = judged[1]
    assert given == {0: "abcdx", 1: "abcx", 2: "abx", 3: "abx", 4: "ax", 5: "x", 6: "x"}
    assert (trainer.hinted, trainer.sampled) == (5, 14)
    assert trainer._metrics["train"]["hinted"] == [0.5] * 5 + [0.0] * 2


def test_messages_go_on_with_the_assistants_turn() -> None:
    trainer = Fake(tiny_tokenizer(), hints={0: "abcd"}, hint_share=1.0, hint_until=1.0)
    rows = [{"problem": 0, "prompt": "0:", "completion": [{"role": "assistant", "content": "x"}]}]
    trainer._drawn = lambda problem: 0.5  # type: ignore[method-assign]
    assert trainer._generate_and_score_completions(rows)[2] == [[{"role": "assistant", "content": "abx"}]]


def test_a_group_draws_one_share_and_steps_draw_others() -> None:
    trainer = Fake(tiny_tokenizer(), hints={}, hint_share=1.0, hint_until=1.0)
    drawn = [trainer._drawn(problem) for problem in (0, 0, 1)]
    trainer.state.global_step = 1
    assert drawn[0] == drawn[1] != drawn[2]
    assert trainer._drawn(0) != drawn[0]


@pytest.mark.parametrize("method", ["grpo", "rloo", "dapo"])
@pytest.mark.parametrize("conversational", [False, True], ids=["text", "messages"])
def test_rollouts_are_on_policy_and_hinted_ones_are_counted(tmp_path: Path, conversational: bool, method: str) -> None:
    shape = chat if conversational else list
    init = base(tmp_path / "init", "llama", chat_template=True, characters="abcdsuerit0123: \n")
    asked = prepared(tmp_path / "problems", shape(WORDS), "problems")
    demos = prepared(tmp_path / "demos", shape(answered(WORDS[:2])), "trajectories")
    settings = BRIEF | {"method": method, "hint_until": 1.0, "learning_rate": 1e-3}
    made = record(run("rl", tmp_path / "rl", settings, init=init, problems=asked, hints=demos))
    assert made.trace is not None
    assert (made.trace.provenance, made.trace.staleness) == ("on-policy", {0: 32})
    assert (made.counts["hinted_problems"], made.counts["unhinted_problems"]) == (2, 2)
    assert 0 < made.counts["hinted_rollouts"] < made.counts["rollouts"]
    assert made.metrics["hinted_share"] == made.counts["hinted_rollouts"] / made.counts["rollouts"]
    assert max(share for _, share in made.curves["hinted"]) > 0


def test_with_an_evaluation_only_what_is_never_solved_is_hinted(tmp_path: Path) -> None:
    init = base(tmp_path / "init", "llama", characters="abcd0123:", initializer_range=0.02)
    rows = [WORDS[0], {**WORDS[1], "reference": [*"abcd"]}]
    asked = prepared(tmp_path / "problems", rows, "problems")
    demos = prepared(tmp_path / "demos", answered(WORDS[:2]), "trajectories")
    measure = {"samples": 32, "max_new_tokens": 1, "trained_on": True}
    measured = run("evaluate", tmp_path / "e", measure, policy=init, problems=asked)
    parents = {"init": init, "problems": asked, "hints": demos, "evaluation": measured}
    made = record(run("rl", tmp_path / "rl", BRIEF | {"max_steps": 1}, **parents))
    assert (made.counts["hinted_problems"], made.counts["unused_hints"]) == (1, 1)


def test_prompt_hint_and_answer_must_fit_together(tmp_path: Path) -> None:
    init = base(tmp_path / "init", "llama", context=16)
    asked = prepared(tmp_path / "problems", WORDS, "problems")
    demos = prepared(tmp_path / "demos", [{**ONE, "completion": "a" * 12}], "trajectories")
    parents = {"init": [init], "problems": [asked], "hints": [demos]}
    complaint = "problem 'p0' has 14 prompt tokens, which with 4 new tokens"
    refused("rl", parents, BRIEF, tmp_path / "x" / "out", ContractError, complaint)
