"""A reward model as the reward of an online trainer."""

from __future__ import annotations

from typing import Any

from posttrain.artifacts.artifact import Artifact
from posttrain.generation.tokenizer import load_tokenizer

NAME = "reward_model"  # under which TRL logs its scores


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
