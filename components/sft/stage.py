"""Supervised fine-tuning on supplied trajectories: maximise Σ log π(completion | prompt) over a fixed batch.

What this is, and is not:
1. Off-policy whoever sampled the rows; own samples, filtered and kept, count as self-generated, not on-policy.
2. `sft` and `dft` are `trl.SFTTrainer` unchanged: the same data, seed and settings give bit-identical weights to a bare
   TRL script. `dft` weights each token by its own probability (2508.05629), a gentler update that reshapes.
3. `anchored`, `asft` and `proximal` hold the policy near where it was (`posttrain.training.anchoring`); with a parent
   `anchors`, whatever the method, the page says what of those problems the policy could solve and no longer can.
4. `loss_on` says which tokens are learned; packed rows do not see each other, or the stage refuses.
5. Rows longer than `max_length` are truncated by TRL; here they are counted first, and an error above a share.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.contracts import agree_on_text, size_of
from posttrain.artifacts.problems import read_problems
from posttrain.artifacts.trajectories import read_trajectories
from posttrain.errors import ConfigError, ContractError
from posttrain.generation.prompts import check_prompts_fit
from posttrain.generation.settings import SamplingSettings
from posttrain.progress import Progress
from posttrain.settings import changed
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind
from posttrain.training.arguments import check_trainer_args
from posttrain.training.ranks import is_main
from posttrain.training.settings import TrainSettings
from posttrain.training.supervised import SHAPES, check_rows, supervised


class SFTSettings(TrainSettings):
    """Supervised fine-tuning."""

    learning_rate: float = Field(default=2e-5, gt=0, description="peak learning rate")
    method: Literal["sft", "dft", "anchored", "asft", "proximal"] = Field(
        default="sft", description="negative log-likelihood (sft), or a gentler loss: see the table of methods"
    )
    max_length: int = Field(default=1024, gt=0, description="longest sequence in tokens")
    loss_on: Literal["usual", "all", "completion", "assistant"] = Field(
        default="usual", description="tokens learned; usual = completions, of messages and text all of them"
    )
    packing: bool = Field(default=False, description="pack short rows into one sequence")
    packing_strategy: Literal["bfd", "bfd_split", "wrapped"] = Field(
        default="bfd",
        description="bfd cuts long rows, bfd_split splits them, wrapped lets rows see each other",
    )
    max_truncated: float = Field(default=0.05, ge=0, le=1, description="largest share of rows cut at max_length")
    anchor_weight: float = Field(
        default=0.1, gt=0, description="of staying near the reference, in nats a token (anchored, asft)"
    )
    clip: float = Field(default=0.28, gt=0, description="how much likelier a token may get between renewals (proximal)")
    refresh: int = Field(default=8, gt=0, description="optimizer steps between renewals of the old policy (proximal)")
    anchor_samples: int = Field(default=16, gt=0, description="samples of each anchor, before and after")
    anchor_tokens: int = Field(default=512, gt=0, description="longest answer to an anchor, in tokens")


# What each setting is for: given with another method it would do nothing.
_OF_METHODS = {"anchor_weight": ("anchored", "asft"), "clip": ("proximal",), "refresh": ("proximal",)}

PARENTS = {
    "init": ParentSpec(Kind.POLICY, help="the policy to start from"),
    "data": ParentSpec(Kind.TRAJECTORIES, help="prompt-completion, messages or text rows"),
    "reference": ParentSpec(Kind.POLICY, required=False, help="the policy to stay near, if not init (anchored, asft)"),
    "anchors": ParentSpec(Kind.PROBLEMS, required=False, help="problems that must not get worse, measured"),
}


def check_settings(settings: SFTSettings) -> None:
    """Every setting must be the method's own, and TRL must know the other arguments."""
    for name, methods in _OF_METHODS.items():
        if name in changed(settings) and settings.method not in methods:
            raise ConfigError(f"sft: {name} is for method={' or '.join(methods)}, not {settings.method}; leave it out")
    if "packing_strategy" in changed(settings) and not settings.packing:
        raise ConfigError(f"sft: packing_strategy={settings.packing_strategy} without packing; set packing=true")
    if settings.method == "proximal" and settings.strategy in ("fsdp", "zero3"):
        raise ConfigError(
            f"sft: method=proximal with strategy={settings.strategy}: it trains against older weights, of which each "
            "process would need all; use ddp or zero2"
        )
    check_trainer_args("SFTConfig", settings)


def check(settings: SFTSettings, parents: Parents) -> None:
    """The rows must have a supervised shape and suit the policy's template; reference and anchors must suit it too."""
    init, data = parents.one("init"), parents.one("data")
    reference, anchors = parents.maybe("reference"), parents.maybe("anchors")
    rows = read_trajectories(data.path)
    check_rows(data.record.facts.get("shape"), init.record.facts.get("chat_template"), rows)
    if settings.loss_on in ("completion", "assistant"):
        check_loss_on(settings.loss_on, str(data.record.facts["shape"]), rows, init)
    if reference and settings.method not in _OF_METHODS["anchor_weight"]:
        raise ContractError(f"sft: method={settings.method} has no reference; leave the parent 'reference' out")
    if reference:
        agree_on_text(init, reference, ("init", "reference"))
    if anchors:
        check_prompts_fit(init, read_problems(anchors.path), settings.anchor_tokens)


def check_loss_on(loss_on: str, shape: str, rows: list[dict[str, Any]], init: Artifact) -> None:
    """There must be something that can be told apart: a completion, or an assistant's turns.

    Raises:
        ContractError: there is not, or the template does not mark the assistant's turns, or leaves their end out.
    """
    if loss_on == "completion" and shape != "prompt-completion":
        raise ContractError(f"sft: loss_on=completion, but {shape} rows have none; give prompt-completion rows")
    if loss_on != "assistant":
        return
    if not isinstance(rows[0][SHAPES[shape][-1]], list):
        raise ContractError(f"sft: loss_on=assistant, but the {shape} rows are no conversations; give messages")
    from trl.chat_template_utils import get_training_chat_template, is_chat_template_stop_token_trained

    from posttrain.generation.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(init.path)
    try:
        ends = is_chat_template_stop_token_trained(tokenizer, chat_template=get_training_chat_template(tokenizer))
    except ValueError:  # TRL knows no version of this template with marks
        raise ContractError(
            "sft: loss_on=assistant, but init's chat template does not mark the assistant's turns; put "
            "{% generation %} and {% endgeneration %} around them, or learn all tokens with loss_on=all"
        ) from None
    if not ends:
        raise ContractError(
            "sft: loss_on=assistant, but init's chat template leaves the end of a turn outside {% generation %}, so "
            "the policy would not learn to stop; put the marks around it"
        )


def run(settings: SFTSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Train and write the policy; then ask both policies for the anchors."""
    init, anchors = parents.one("init"), parents.maybe("anchors")
    owned = {
        "loss_type": "dft" if settings.method == "dft" else "nll",
        "max_length": settings.max_length,
        "packing": settings.packing,
        "packing_strategy": settings.packing_strategy,
        "completion_only_loss": {"all": False, "completion": True}.get(settings.loss_on),
        "assistant_only_loss": settings.loss_on == "assistant",
    }
    trainer, more = objective(settings, parents.maybe("reference") or init)
    data, cut = parents.one("data"), settings.max_truncated
    work = supervised(settings, init, data, owned, cut, out, progress, trainer, **more)
    if anchors and is_main():
        from posttrain.components.sft.anchors import anchor_blocks, anchor_metrics, kept

        sampling = SamplingSettings(
            samples=settings.anchor_samples, max_new_tokens=settings.anchor_tokens, seed=settings.seed
        )
        found = kept(init, out, read_problems(anchors.path), sampling, progress)
        work.metrics |= anchor_metrics(found)
        work.blocks = anchor_blocks(found)
    return work


def objective(settings: SFTSettings, reference: Artifact) -> tuple[tuple[type, ...], dict[str, Any]]:
    """What the method adds to TRL's trainer: mixins, and their arguments."""
    if settings.method in ("sft", "dft"):
        return (), {}
    from posttrain.training.anchoring import Anchored, Proximal

    if settings.method == "proximal":
        return (Proximal,), {"clip": settings.clip, "refresh": settings.refresh}
    dynamic = settings.method == "asft"
    return (Anchored,), {"anchor": str(reference.path), "weight": settings.anchor_weight, "dynamic": dynamic}


STAGE = Stage(
    name="sft",
    output="policy",
    makes=Kind.POLICY,
    parents=PARENTS,
    settings=SFTSettings,
    run=run,
    check_settings=check_settings,
    check=check,
    method=lambda settings: settings.method,
    size=lambda parents: 2 * size_of(parents.one("init")),
)
