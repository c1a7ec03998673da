"""Whether prompts fit a policy, from its tokenizer alone."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.contracts import prompts_fit
from posttrain.artifacts.problems import Problem
from posttrain.errors import ContractError
from posttrain.generation.tokenizer import load_tokenizer, render_all


def check_prompts_fit(policy: Artifact, problems: Sequence[Problem], new_tokens: int) -> None:
    """Every problem's prompt, rendered as the policy will see it, must leave room for the completion.

    Raises:
        ContractError: a conversational prompt meets a policy without chat template, or a prompt is too long.
    """
    conversational = next((p for p in problems if not isinstance(p.prompt, str)), None)
    if conversational and not policy.record.facts.get("chat_template"):
        raise ContractError(
            f"problem {conversational.id!r} is conversational, but the policy has no chat template; add "
            "chat_template.jinja to the model, or give prompts as text"
        )
    tokenizer = load_tokenizer(policy.path)
    lengths = [len(tokens) for tokens in render_all(tokenizer, [problem.prompt for problem in problems])]
    prompts_fit(problems, lengths, new_tokens, int(policy.record.facts.get("context", 0)), policy.path)
