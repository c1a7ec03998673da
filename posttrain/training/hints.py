"""Guided RL: where the learner never succeeds, it starts from the beginning of a demonstration.

A problem that no sample solves gives a group no contrast, and RL no gradient: by itself it cannot leave the support.
With the first part of a right answer given, the rest is within reach; the part that is given shrinks to nothing while
the run goes on, so that what is learned reaches back to the bare prompt (hints where all samples fail: 2602.03143;
guidance that decays: 2508.16949; guidance by templates: 2505.15692).

The supplied tokens are context, as the prompt is: no loss is on them. Every token that is trained on was sampled by the
learner itself, given them, so the rollouts are on-policy; what is judged is the whole answer, supplied part included.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.contracts import prompts_fit
from posttrain.artifacts.problems import Problem, prompt_text
from posttrain.artifacts.rows import Row
from posttrain.errors import ContractError
from posttrain.generation.tokenizer import load_tokenizer, render_all
from posttrain.training.ranks import mean_of_all


def hints_for(
    problems: Sequence[Problem], rows: Sequence[Row], wanting: Collection[str]
) -> tuple[dict[str, str], Counter[str]]:
    """A demonstrated answer for each problem that wants one: problem id → text.

    A row belongs to a problem by its `problem_id`, or else by its prompt. Rows that were scored and are not right are
    no demonstrations; of several for a problem the first counts.

    Args:
        rows: demonstrations, prompt and completion.
        wanting: ids of the problems that are to be hinted.

    Returns:
        The hints, and counts: `hinted_problems`, `unhinted_problems` (they want one and there is none), `unused_hints`.

    Raises:
        ContractError: rows are not prompt and completion, a completion is no single answer, or none fits a problem.
    """
    if not {"prompt", "completion"} <= rows[0].keys():
        raise ContractError(f"rl: hints have columns {sorted(rows[0])}; give demonstrations: prompt and completion")
    by_prompt = {prompt_text(problem.prompt): problem.id for problem in reversed(problems)}
    hints: dict[str, str] = {}
    owner: str
    for number, row in enumerate(rows, 1):
        owner = row.get("problem_id") or by_prompt.get(prompt_text(row["prompt"]), "")
        if owner in wanting and row.get("reward") in (None, 1) and owner not in hints:
            hints[owner] = _answer(row["completion"], number)
    if not hints:
        raise ContractError(
            f"rl: none of {len(rows)} hints is a right answer to one of the {len(wanting)} problems that want one; "
            "give demonstrations of these very problems (by problem_id or by prompt), or leave hints out"
        )
    return hints, Counter(
        hinted_problems=len(hints),
        unhinted_problems=len(set(wanting)) - len(hints),
        unused_hints=len(rows) - len(hints),
    )


def _answer(completion: Any, row: int) -> str:
    if isinstance(completion, str):
        return completion
    if len(completion) != 1:
        raise ContractError(f"rl: hint {row} has {len(completion)} messages; a hint is the one answer to its prompt")
    return str(completion[0]["content"])


def check_hints_fit(
    init: Artifact, problems: Sequence[Problem], hints: Mapping[str, str], share: float, new_tokens: int
) -> None:
    """Prompt, largest hint and completion must fit the policy's context together.

    Raises:
        ContractError: they do not.
    """
    tokenizer = load_tokenizer(init.path)
    hinted = [problem for problem in problems if problem.id in hints]
    given = [beginning(tokens(tokenizer, hints[problem.id]), share) for problem in hinted]
    rendered = render_all(tokenizer, [problem.prompt for problem in hinted])
    lengths = [len(prompt) + len(hint) for prompt, hint in zip(rendered, given, strict=True)]
    prompts_fit(hinted, lengths, new_tokens, int(init.record.facts.get("context", 0)), init.path)


def tokens(tokenizer: Any, answer: str) -> list[int]:
    """An answer's token ids as they would follow a prompt."""
    return list(tokenizer(text=answer, add_special_tokens=False)["input_ids"])


def beginning(ids: list[int], share: float) -> list[int]:
    """The first part of an answer, in whole tokens."""
    return ids[: round(share * len(ids))]


class GivesHints:
    """Mixin for a TRL online trainer: rollouts of some problems start with the beginning of a demonstrated answer.

    At most a share of the answer is given that falls in a straight line from `hint_share` to 0 at `hint_until` of the
    run's steps. How much of that is drawn for each problem and step: starts from all along the answer keep what was
    learned of its end and of its beginning alive (2402.05808), and a group, whose advantages compare, gets one.
    `hinted` and `sampled` count rollouts; the curve `hinted` is the share of rollouts that started with a hint.

    Args:
        hints: index of a problem (column `problem`) → its demonstrated answer.
    """

    hinted: int = 0
    sampled: int = 0
    SHARES = ("hinted", "sampled")

    def __init__(
        self, *args: Any, hints: Mapping[int, str], hint_share: float, hint_until: float, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._hint_share, self._hint_until = hint_share, hint_until
        tokenizer = self._tokenizer  # type: ignore[attr-defined]
        self._answers = {index: tokens(tokenizer, answer) for index, answer in hints.items()}

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        state, metrics = self.state, self._metrics["train"]  # type: ignore[attr-defined]
        most = self._hint_share * max(0.0, 1 - state.global_step / (self._hint_until * state.max_steps))
        self._given = [
            beginning(self._answers.get(row["problem"], []), most * self._drawn(row["problem"])) for row in inputs
        ]
        started = sum(map(bool, self._given))
        self.hinted, self.sampled = self.hinted + started, self.sampled + len(inputs)
        metrics["hinted"].append(float(mean_of_all(self.accelerator, [bool(hint) for hint in self._given])))  # type: ignore[attr-defined]
        return super()._generate_and_score_completions(inputs)  # type: ignore[misc]

    def _drawn(self, problem: int) -> float:
        """In [0, 1), the same for every rollout of a problem in a step, in whichever process."""
        return random.Random(f"{self.args.seed} {self.state.global_step} {problem}").random()  # type: ignore[attr-defined]

    def _tokenize_prompts(self, prompts: Any) -> Any:
        self._prompt_ids, *others = super()._tokenize_prompts(prompts)  # type: ignore[misc]
        return [ids + hint for ids, hint in zip(self._prompt_ids, self._given, strict=True)], *others

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        parts = zip(completions, self._prompt_ids, self._given, completion_ids_list, strict=True)
        whole = [self._whole(*part) if part[2] else part[0] for part in parts]
        return super()._calculate_rewards(inputs, prompts, whole, completion_ids_list)  # type: ignore[misc]

    def _whole(self, completion: Any, prompt_ids: list[int], hint: list[int], ids: list[int]) -> Any:
        """Hint and continuation as one answer, decoded together: a character may have tokens on both sides."""
        from trl.chat_template_utils import parse_response

        tokenizer = self._tokenizer  # type: ignore[attr-defined]
        if isinstance(completion, str):
            return tokenizer.decode(hint + ids, skip_special_tokens=True)
        if getattr(tokenizer, "response_template", None) or getattr(tokenizer, "response_schema", None):
            return [parse_response(tokenizer, hint + ids, prefix=prompt_ids)]
        return [completion[0] | {"content": tokenizer.decode(hint + ids, skip_special_tokens=True)}]
