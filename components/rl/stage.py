"""Reinforcement learning from rewards, verifiable or modelled: GRPO and its published variants, and RLOO.

Maximises E[A · min(r, clip(r, 1 ± ε))] − β KL(π ‖ π_ref) with group-relative advantages A = (R − mean) / std over
the completions of one prompt (2402.03300, eq. 3 and 4). What this is, and is not:

1. On-policy: each rollout is sampled by the learner itself; the staleness that really occurred is recorded, and a
   schedule that reuses rollouts beyond `max_staleness` is refused before it starts.
2. `trl.GRPOTrainer` does the work; a method is a row of `variants.py`, nothing else differs. `rloo` is
   `trl.RLOOTrainer`: the baseline is the mean of the group's other rewards (2402.14740, eq. 5).
3. The reward is a weighted sum of named terms (`posttrain.training.rewards`), each logged by itself. Answers that no
   term can score leave the group's baseline and get no advantage.
4. What TRL lacks is a mixin each: dynamic sampling, hints, advantages normalised over the batch, another reference.
5. With `hints` it can leave the support, which RL by itself cannot: the learner goes on from the beginning of a right
   answer. The supplied tokens are context and not trained on; see `posttrain.training.hints`.
6. The reference of the KL term is `reference`, or else `init`, reloaded from disk. Without `kl` there is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.components.rl.plan import Plan, planned
from posttrain.components.rl.settings import RLSettings, check_settings

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.contracts import agree_on_text, size_of
from posttrain.artifacts.problems import Problem
from posttrain.errors import ContractError
from posttrain.generation.prompts import check_prompts_fit
from posttrain.progress import Progress
from posttrain.settings import changed
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind
from posttrain.training.hardware import global_batch, require
from posttrain.training.hints import check_hints_fit
from posttrain.training.online import enough_prompts
from posttrain.training.rewards import Rollouts, check_reward_parents, reward_arguments
from posttrain.verifiers import Bench

PARENTS = {
    "init": ParentSpec(Kind.POLICY, help="the policy to start from"),
    "problems": ParentSpec(Kind.PROBLEMS, help="prompts with verifiers"),
    "reward_model": ParentSpec(
        Kind.REWARD_MODEL, most=3, required=False, help="scores answers, or several whose mean does (reward_model)"
    ),
    "process_reward_model": ParentSpec(
        Kind.PROCESS_REWARD_MODEL, required=False, help="scores an answer's steps (process_reward_model)"
    ),
    "hints": ParentSpec(
        Kind.TRAJECTORIES, required=False, help="right answers, whose beginnings are given where every sample fails"
    ),
    "evaluation": ParentSpec(
        Kind.EVALUATION, required=False, help="of these problems: who is hinted, and what a curriculum goes by"
    ),
    "reference": ParentSpec(Kind.POLICY, required=False, help="the policy to stay near (kl), if not init"),
}


def check(settings: RLSettings, parents: Parents) -> None:
    """Parents must have their use, prompts must fit, and there must be enough of them for a step."""
    check_reward_parents("rl", settings, parents)
    _check_uses(settings, parents)
    if settings.trainer_args.get("use_vllm"):
        require("vllm", "trainer_args.use_vllm")
    init, a_step = parents.one("init"), global_batch(settings) // settings.group_size
    plan = planned(parents, settings.slices, settings.curriculum, a_step)
    enough_prompts(len(plan.problems), a_step)
    _bench(settings, plan.problems)
    check_prompts_fit(init, plan.problems, settings.max_new_tokens)
    check_hints_fit(init, plan.problems, plan.hints, settings.hint_share, settings.max_new_tokens)
    models = parents.all("reward_model")
    for model in models:
        check_prompts_fit(model, plan.problems, settings.max_new_tokens)
        agree_on_text(models[0], model, ("reward_model_1", "another reward model"))


def _bench(settings: RLSettings, problems: Sequence[Problem]) -> Bench:
    """Who verifies, if the reward has such a term; a judge that is not configured is refused."""
    return Bench(problem.verifier for problem in problems if "verifier" in settings.rewards)


def _check_uses(settings: RLSettings, parents: Parents) -> None:
    """No parent without a setting that uses it, and no setting without its parent."""
    evaluation, hints, reference = (parents.maybe(role) for role in ("evaluation", "hints", "reference"))
    if settings.curriculum != "none" and not evaluation:
        raise ContractError(
            f"rl: curriculum={settings.curriculum} needs a parent 'evaluation': the policy measured on these problems "
            "(trained_on=true)"
        )
    if evaluation and settings.curriculum == "none" and not hints:
        raise ContractError("rl: has a parent 'evaluation' and nothing that uses it; set curriculum, or give hints")
    given = changed(settings) & {"hint_share", "hint_until"}
    if given and not hints:
        raise ContractError(f"rl: {min(given)} is set, but there is no parent 'hints': {PARENTS['hints'].help}")
    if reference and (not settings.kl or settings.lora_rank):
        what = "kl=0, which has no reference; set kl, as 0.01" if not settings.kl else "an adapter; set lora_rank=0"
        raise ContractError(f"rl: has a parent 'reference' with {what}, or leave it out")
    if reference:
        _same_network(parents.one("init"), reference)


def _same_network(init: Artifact, reference: Artifact) -> None:
    agree_on_text(init, reference, ("init", "reference"))
    for fact in ("architecture", "parameters", "vocabulary"):
        mine, theirs = init.record.facts.get(fact), reference.record.facts.get(fact)
        if mine != theirs:
            raise ContractError(
                f"rl: {fact} of init is {mine}, of reference {theirs}; give an earlier state of the same policy"
            )


def run(settings: RLSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Train and write the policy."""
    from posttrain.training.arguments import trainer_config
    from posttrain.training.online import measuring, prompt_dataset, refuse_planned_staleness, trace_of
    from posttrain.training.ranks import summed
    from posttrain.training.run import train, trainer_scratch
    from posttrain.training.staleness import expected_staleness
    from posttrain.training.trl_classes import trl_class

    init = parents.one("init")
    plan = planned(parents, settings.slices, settings.curriculum, global_batch(settings) // settings.group_size)
    bench, counts = _bench(settings, plan.problems), Counter[str]()
    mixins, arguments = _mixins(settings, parents, plan)
    # Before the config: under ZeRO-3 Transformers spreads whatever is loaded after it, and not every term is gathered
    # again for its forward passes.
    rewards = reward_arguments(Rollouts(plan.problems, settings, parents, counts, bench))
    with trainer_scratch() as scratch:
        config = trainer_config(
            trl_class(f"{settings.variant.trainer}Config"), settings, scratch, **_trl_arguments(settings)
        )
        planned_staleness = expected_staleness(
            config.steps_per_generation * config.num_iterations, config.gradient_accumulation_steps
        )
        refuse_planned_staleness(planned_staleness, settings.max_staleness, settings.accept_provenance)
        trainer, work = train(
            measuring(trl_class(f"{settings.variant.trainer}Trainer"), *mixins),
            config,
            prompt_dataset(plan.problems),
            settings,
            init,
            out,
            progress,
            counted=counts,
            judged=bench.served,
            **arguments,
            **rewards,
        )
    work.trace = trace_of(trainer, init.digest, settings.max_staleness)
    if plan.hints:
        counts.update(hinted_rollouts=trainer.hinted, sampled_rollouts=trainer.sampled)
    if settings.samples_dynamically:
        counts["discarded_rollouts"] = trainer.discarded
    live = summed(counts)
    if plan.hints:
        work.metrics["hinted_share"] = live["hinted_rollouts"] / max(live.pop("sampled_rollouts"), 1)
    work.counts = {**plan.counts, **live}
    work.facts |= bench.facts(summed)
    return work


def _trl_arguments(settings: RLSettings) -> dict[str, Any]:
    """What the settings come to in TRL's config."""
    chosen: dict[str, Any] = {
        "num_generations": settings.group_size,
        "beta": settings.kl,
        "max_completion_length": settings.max_new_tokens,
        "temperature": settings.temperature,
        "reward_weights": list(settings.rewards.values()),
    }
    if settings.reference_reset_steps:  # ProRL (2505.24864): a reference that is left behind stops learning
        every = settings.reference_reset_steps
        chosen |= {"sync_ref_model": True, "ref_model_sync_steps": every, "ref_model_mixup_alpha": 1.0}
    if settings.curriculum == "easy_to_hard":
        chosen["shuffle_dataset"] = False
    return chosen | {k: v for k, v in settings.variant.arguments.items() if k not in settings.trainer_args}


def _mixins(settings: RLSettings, parents: Parents, plan: Plan) -> tuple[list[type], dict[str, Any]]:
    """What the trainer is extended by, the outermost first, and their arguments."""
    from posttrain.training.dynamic_sampling import SamplesDynamically
    from posttrain.training.global_advantages import NormalisesGlobally
    from posttrain.training.group_rewards import KeepsRewards
    from posttrain.training.hints import GivesHints
    from posttrain.training.reference import StaysNear

    mixins: list[type] = []
    arguments: dict[str, Any] = {}
    if settings.variant.global_advantages:
        mixins.append(NormalisesGlobally)
        arguments["group_baseline"] = settings.variant.global_advantages == "group_baseline"
    if settings.samples_dynamically:
        mixins.append(SamplesDynamically)
        arguments["max_resampling"] = settings.max_resampling
    if mixins:
        mixins.append(KeepsRewards)
    if plan.hints:
        mixins.append(GivesHints)
        index = {problem.id: number for number, problem in enumerate(plan.problems)}
        arguments["hints"] = {index[name]: text for name, text in plan.hints.items() if name in index}
        arguments |= {"hint_share": settings.hint_share, "hint_until": settings.hint_until}
    if reference := parents.maybe("reference"):
        mixins.append(StaysNear)
        arguments["reference"] = reference.path
    return mixins, arguments


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
    foreign={"data": "rl samples its own trajectories; learn from given ones with sft, or with preference from pairs"},
)
