"""The terms of an online trainer's reward, by name: what each needs, and how it scores an answer.

The reward is Σ weight · term. TRL logs every term by itself, as `rewards/<term>/mean`; one of weight 0 is logged and
not maximised. A term that cannot score an answer counts nothing there; an answer that no term can score has no
advantage. A term is a row of `TERMS`: a new one is one more row, and a parent or a setting if it needs one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from posttrain import verifiers
from posttrain.artifacts.problems import Problem
from posttrain.artifacts.trajectories import last_text
from posttrain.errors import ConfigError, ContractError, nearest
from posttrain.settings import Settings
from posttrain.stage import Parents
from posttrain.training.process import process_reward
from posttrain.training.reward import load_reward_models

# A TRL reward function or model, and what makes the model's input of texts (None for a function).
Source = tuple[Any, Any]


class RewardSettings(Settings):
    """What is maximised."""

    rewards: dict[str, float] = Field(
        default_factory=lambda: {"verifier": 1.0},
        description="weight of each term: verifier, reward_model, process_reward_model, format, length, repetition; "
        "0 = logged only",
    )
    reward_model_pessimism: float = Field(
        default=0.0, ge=0, description="k of several reward models' score: mean − k · their standard deviation"
    )
    format_pattern: str = Field(default="", description="regular expression that the whole answer must match (format)")
    overlong_tokens: int = Field(
        default=0, ge=0, description="last tokens of max_new_tokens, over which length falls from 0 to −1"
    )


@dataclass(frozen=True)
class Rollouts:
    """What terms may know of a run."""

    problems: Sequence[Problem]
    settings: Any  # RewardSettings, and the stage's max_new_tokens
    parents: Parents
    counts: Counter[str]
    bench: verifiers.Bench = field(default_factory=verifiers.Bench)  # of the verifiers that problems name

    @property
    def conversational(self) -> bool:
        return not isinstance(self.problems[0].prompt, str)


@dataclass(frozen=True)
class Term:
    """One term of the reward, with the parent and the setting that it cannot do without."""

    source: Callable[[Rollouts], Source]
    parent: str = ""
    setting: str = ""


def verifier(rollouts: Rollouts) -> Source:
    """The verified score in [0, 1]; None where it is unscorable. `counts` gains `rollouts` and `unscorable`."""

    def scores(completions: list[Any], problem: list[int], **columns: Any) -> list[float | None]:
        asks = []
        for completion, index in zip(completions, problem, strict=True):
            asked = rollouts.problems[index]
            prompt = last_text(asked.prompt)
            asks.append(verifiers.Ask(last_text(completion), asked.verifier, asked.reference, prompt))
        scored = [verdict.score for verdict in verifiers.verify_all(asks)]
        rollouts.bench.look()
        rollouts.counts["rollouts"] += len(scored)
        rollouts.counts["unscorable"] += sum(score is None for score in scored)
        return scored

    return scores, None


def reward_model(rollouts: Rollouts) -> Source:
    """A reward model's score, or a careful mean of several (2312.09244)."""
    models = rollouts.parents.all("reward_model")
    return load_reward_models(models, rollouts.conversational, rollouts.settings.reward_model_pessimism)


def process_reward_model(rollouts: Rollouts) -> Source:
    """The least P(right) of an answer's steps under a process reward model (2211.14275)."""
    model = rollouts.parents.one("process_reward_model")
    return process_reward(model, rollouts.problems, rollouts.counts), None


def format_(rollouts: Rollouts) -> Source:
    """1 where the whole answer matches the pattern, else 0."""
    pattern = re.compile(rollouts.settings.format_pattern, re.DOTALL)
    return lambda completions, **columns: [float(bool(pattern.fullmatch(last_text(c)))) for c in completions], None


def length(rollouts: Rollouts) -> Source:
    """Soft punishment of overlong answers: 0, falling to −1 over the last tokens (DAPO, 2503.14476, eq. 13)."""
    from trl.rewards import get_soft_overlong_punishment

    return get_soft_overlong_punishment(rollouts.settings.max_new_tokens, rollouts.settings.overlong_tokens), None


def repetition(rollouts: Rollouts) -> Source:
    """−1 times the share of three-token sequences that an answer repeats (2502.03373, appendix C.2)."""
    from trl.rewards import get_repetition_penalty_reward

    return get_repetition_penalty_reward(), None


TERMS: dict[str, Term] = {
    "verifier": Term(verifier),
    "reward_model": Term(reward_model, parent="reward_model"),
    "process_reward_model": Term(process_reward_model, parent="process_reward_model"),
    "format": Term(format_, setting="format_pattern"),
    "length": Term(length, setting="overlong_tokens"),
    "repetition": Term(repetition),
}


def check_reward_settings(stage: str, settings: Any) -> None:
    """Terms must be known, have their settings, and leave something to maximise.

    Raises:
        ConfigError: one is not, has not, or every weight is 0.
    """
    rewards = settings.rewards
    for name in rewards:
        if name not in TERMS:
            raise ConfigError(f"{stage}: rewards: no term is called {name!r}{nearest(name, TERMS)}")
    if not any(rewards.values()):
        raise ConfigError(f"{stage}: rewards={rewards} leaves nothing to maximise; give a term a weight")
    for name, term in TERMS.items():
        value = getattr(settings, term.setting) if term.setting else None
        if name in rewards and value in ("", 0):
            raise ConfigError(f"{stage}: rewards has the term {name!r}, which needs {term.setting}; set it")
        if name not in rewards and value:
            raise ConfigError(
                f"{stage}: {term.setting}={value!r}, but rewards has no term {name!r}; give it a weight, or leave "
                f"{term.setting} out"
            )
    if settings.overlong_tokens > settings.max_new_tokens:
        raise ConfigError(
            f"{stage}: overlong_tokens={settings.overlong_tokens} of max_new_tokens={settings.max_new_tokens}; take "
            "fewer"
        )
    try:
        re.compile(settings.format_pattern)
    except re.error as error:
        raise ConfigError(
            f"{stage}: format_pattern={settings.format_pattern!r} is no regular expression: {error}; mend it"
        ) from None


def check_reward_parents(stage: str, settings: RewardSettings, parents: Parents) -> None:
    """A term and its parent go together, and pessimism needs models that can differ.

    Raises:
        ContractError: one is without the other.
    """
    for name, term in TERMS.items():
        given = bool(term.parent) and bool(parents.all(term.parent))
        if given and name not in settings.rewards:
            raise ContractError(
                f"{stage}: has a parent {term.parent!r}, but rewards={settings.rewards} has no term {name!r}; give it "
                f"a weight, as rewards={{{name}: 1.0}}, or leave the parent out"
            )
        if name in settings.rewards and term.parent and not given:
            raise ContractError(
                f"{stage}: rewards has the term {name!r}, which needs a parent {term.parent!r}; give it"
            )
    if settings.reward_model_pessimism and len(parents.all("reward_model")) < 2:
        raise ContractError(
            f"{stage}: reward_model_pessimism={settings.reward_model_pessimism} is for several reward models, which "
            "differ where none is to be trusted; give more, or leave it out"
        )


def reward_arguments(rollouts: Rollouts) -> dict[str, list[Any]]:
    """The chosen terms as the trainer's arguments; the weights belong into its config in the same order."""
    functions, tokenizers = [], []
    for name in rollouts.settings.rewards:
        function, tokenizer = TERMS[name].source(rollouts)
        if tokenizer is None:
            function.__name__ = name  # what TRL logs it as
        functions.append(function)
        tokenizers.append(tokenizer)
    return {"reward_funcs": functions, "reward_processing_classes": tokenizers}
