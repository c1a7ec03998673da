"""Reinforcement learning from rewards, verifiable or modelled: GRPO and its published variants, and RLOO.

Maximises E[A · min(r, clip(r, 1 ± ε))] − β KL(π ‖ π_ref) with group-relative advantages A = (R − mean) / std over
the completions of one prompt (2402.03300, eq. 3 and 4). What this is, and is not:

1. On-policy: each rollout is sampled by the learner itself; the staleness that really occurred is recorded, and a
   schedule that reuses rollouts beyond `max_staleness` is refused before it starts.
2. `trl.GRPOTrainer` does the work; a variant is a row of `_VARIANTS`, nothing else differs. `rloo` is
   `trl.RLOOTrainer`: the baseline is the mean of the group's other rewards (2402.14740, eq. 5).
3. The reward is the problem's verifier, a reward model's score, or their weighted sum; each is logged by itself.
   Answers that the verifier cannot score (None) leave the group's baseline and get no advantage.
4. The reference of the KL term is `init`, reloaded from disk. Without `kl` there is none.
5. DAPO's dynamic sampling is not in TRL; `dapo` here is its loss, clip-higher and masking of truncated answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from posttrain import verifiers
from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.contracts import size_of
from posttrain.artifacts.problems import Problem, read_problems
from posttrain.errors import ConfigError, ContractError
from posttrain.generation.prompts import check_prompts_fit
from posttrain.progress import Progress
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind
from posttrain.training.arguments import check_trainer_args
from posttrain.training.hardware import global_batch
from posttrain.training.online import enough_prompts
from posttrain.training.settings import TrainSettings

Variant = Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo", "sapo", "rloo"]

# What each paper changes, in TRL's arguments. `trainer_args` may override any of it.
_VARIANTS: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28, "mask_truncated_completions": True},
    "bnpo": {"loss_type": "bnpo"},
    # TRL warns unless sequence-level ratios go with the grpo loss; the clipping range is the paper's section 5.1.
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "sapo": {"loss_type": "sapo"},
    "rloo": {},
}


class RLSettings(TrainSettings):
    """Reinforcement learning."""

    method: Variant = Field(default="grpo", description="the published variant")
    group_size: int = Field(default=8, gt=1, description="completions a prompt, the group that advantages compare")
    kl: float = Field(default=0.0, ge=0, description="weight β of the KL term towards init")
    max_new_tokens: int = Field(default=512, gt=0, description="longest completion, in tokens")
    temperature: float = Field(default=1.0, gt=0, description="sampling temperature")
    slices: list[str] = Field(default_factory=list, description="only problems of these slices; empty = all")
    max_staleness: int = Field(default=0, ge=0, description="optimizer steps after which a rollout is not on-policy")
    reward: Literal["verifier", "reward_model", "both"] = Field(
        default="verifier", description="what is maximised: verified score, reward model's score, or their sum"
    )
    reward_weights: list[float] = Field(
        default_factory=list, description="of verifier and reward model in the sum; empty = 1 each"
    )


PARENTS = {
    "init": ParentSpec(Kind.POLICY, help="the policy to start from, and the reference of the KL term"),
    "problems": ParentSpec(Kind.PROBLEMS, help="prompts with verifiers"),
    "reward_model": ParentSpec(Kind.REWARD_MODEL, required=False, help="scores answers (reward=reward_model or both)"),
}


def check_settings(settings: RLSettings) -> None:
    """A step must sample whole groups, and TRL must know its arguments."""
    rollouts = settings.batch_size * settings.accumulation
    if rollouts % settings.group_size:
        raise ConfigError(
            f"rl: batch_size × accumulation = {rollouts} is not a multiple of group_size={settings.group_size}; "
            "a step samples whole groups"
        )
    if settings.reward_weights and (settings.reward != "both" or len(settings.reward_weights) != 2):
        raise ConfigError(
            f"rl: reward_weights={settings.reward_weights} with reward={settings.reward}; give two, with reward=both"
        )
    check_trainer_args(f"{_family(settings)}Config", settings)


def _family(settings: RLSettings) -> str:
    """TRL's name for the trainer."""
    return "RLOO" if settings.method == "rloo" else "GRPO"


def check(settings: RLSettings, parents: Parents) -> None:
    """Prompts must fit, there must be enough of them for a step, and the reward must have its model."""
    init, problems = parents.one("init"), read_problems(parents.one("problems").path, settings.slices)
    enough_prompts(len(problems), global_batch(settings) // settings.group_size)
    check_prompts_fit(init, problems, settings.max_new_tokens)
    reward_model = parents.maybe("reward_model")
    if (settings.reward == "verifier") == (reward_model is not None):
        remedy = "choose reward=reward_model or both" if reward_model else PARENTS["reward_model"].help
        has = "has" if reward_model else "has no"
        raise ContractError(f"rl: reward={settings.reward} {has} parent 'reward_model'; {remedy}")
    if reward_model:
        check_prompts_fit(reward_model, problems, settings.max_new_tokens)


def run(settings: RLSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Train and write the policy."""
    import trl

    from posttrain.training.arguments import trainer_config
    from posttrain.training.online import measuring, prompt_dataset, refuse_planned_staleness, trace_of
    from posttrain.training.ranks import summed
    from posttrain.training.run import train, trainer_scratch
    from posttrain.training.staleness import expected_staleness

    init, problems = parents.one("init"), read_problems(parents.one("problems").path, settings.slices)
    counts: Counter[str] = Counter()
    with trainer_scratch() as scratch:
        config = trainer_config(
            getattr(trl, f"{_family(settings)}Config"),
            settings,
            scratch,
            num_generations=settings.group_size,
            beta=settings.kl,
            max_completion_length=settings.max_new_tokens,
            temperature=settings.temperature,
            reward_weights=settings.reward_weights or None,
            **{k: v for k, v in _VARIANTS[settings.method].items() if k not in settings.trainer_args},
        )
        planned = expected_staleness(
            config.steps_per_generation * config.num_iterations, config.gradient_accumulation_steps
        )
        refuse_planned_staleness(planned, settings.max_staleness, settings.accept_provenance)
        trainer, work = train(
            measuring(getattr(trl, f"{_family(settings)}Trainer")),
            config,
            prompt_dataset(problems),
            settings,
            init,
            out,
            progress,
            **rewards(settings.reward, problems, parents.maybe("reward_model"), counts),
        )
    work.trace = trace_of(trainer, init.digest, settings.max_staleness)
    work.counts = {"problems": len(problems), **summed(counts)}
    return work


def rewards(
    chosen: str, problems: list[Problem], reward_model: Artifact | None, counts: Counter[str]
) -> dict[str, list[Any]]:
    """The rewards as the trainer's arguments, the verifier's first; a function needs no tokenizer (None)."""
    from posttrain.training.reward import load_reward_model

    sources: list[tuple[Any, Any]] = []
    if chosen != "reward_model":
        sources.append((verifier_reward(problems, counts), None))
    if reward_model is not None:
        sources.append(load_reward_model(reward_model, not isinstance(problems[0].prompt, str)))
    functions, tokenizers = zip(*sources, strict=True)
    return {"reward_funcs": list(functions), "reward_processing_classes": list(tokenizers)}


def verifier_reward(problems: list[Problem], counts: Counter[str]) -> Callable[..., list[float | None]]:
    """A TRL reward function: the verified score of each completion, None where it is unscorable.

    Args:
        counts: gains `rollouts` and `unscorable`.
    """

    def verified(completions: list[Any], problem: list[int], **columns: Any) -> list[float | None]:
        scores = []
        for completion, index in zip(completions, problem, strict=True):
            asked = problems[index]
            text = completion if isinstance(completion, str) else completion[-1]["content"]
            prompt = asked.prompt if isinstance(asked.prompt, str) else asked.prompt[-1]["content"]
            scores.append(verifiers.verify(text, asked.verifier, asked.reference, prompt).score)
        counts["rollouts"] += len(scores)
        counts["unscorable"] += sum(score is None for score in scores)
        return scores

    return verified


STAGE = Stage(
    name="rl",
    output="policy",
    makes=Kind.POLICY,
    parents=PARENTS,
    settings=RLSettings,
    run=run,
    check_settings=check_settings,
    check=check,
    method=lambda settings: settings.method,
    size=lambda parents: 2 * size_of(parents.one("init")),
)
