"""Reward models as the reward of an online trainer."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from posttrain.artifacts.artifact import Artifact
from posttrain.generation.tokenizer import load_tokenizer

NAME = "reward_model"  # under which TRL logs its scores


def load_reward_models(reward_models: Sequence[Artifact], conversational: bool, pessimism: float) -> tuple[Any, Any]:
    """One reward model, or several as one, and what makes its input of texts, as TRL's trainers take them.

    Several share a tokenizer and a chat template. Their score is mean − pessimism · standard deviation: models that
    were trained alike differ most where an answer is far from what they learned from (2312.09244).
    """
    (model, tokenizer), *others = [load_reward_model(each, conversational) for each in reward_models]
    return _together([model, *(other for other, _ in others)], pessimism) if others else model, tokenizer


def load_reward_model(reward_model: Artifact, conversational: bool) -> tuple[Any, Any]:
    """A reward model and what makes its input of texts, as TRL's `reward_funcs` and `reward_processing_classes`.

    TRL hands the texts of prompt and completion over, so the reward model's own tokenizer and template apply; they
    need not be the policy's.
    """
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        reward_model.path, num_labels=1, dtype="auto", use_safetensors=True
    )
    model.config._name_or_path = NAME
    tokenizer = load_tokenizer(reward_model.path)
    return model, tokenizer if conversational else EndedTexts(tokenizer)


def _together(models: Sequence[Any], pessimism: float) -> Any:
    """Several reward models as a module that TRL takes for one."""
    import torch

    class Ensemble(torch.nn.Module):
        config = models[0].config  # TRL reads the name there

        def __init__(self) -> None:
            super().__init__()
            self.models = torch.nn.ModuleList(models)

        def forward(self, **inputs: Any) -> Any:
            self.to(inputs["input_ids"].device)  # TRL places only what it knows as a Transformers model
            scores_MB1 = torch.stack([model(**inputs).logits.float() for model in self.models])
            careful_B1 = scores_MB1.mean(dim=0) - pessimism * scores_MB1.std(dim=0, correction=0)
            return SimpleNamespace(logits=careful_B1)

    return Ensemble().eval()


class EndedTexts:
    """A tokenizer that ends every text with EOS.

    A reward model reads its score at the last token. `trl.RewardTrainer` appends EOS to plain texts, the online
    trainers do not: unended texts would be scored at a token at which no score was ever learned.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: list[str], **arguments: Any) -> Any:
        end = self._tokenizer.eos_token
        return self._tokenizer(text=[each if each.endswith(end) else each + end for each in text], **arguments)
