"""A trainer of process reward models: a token classifier, binary cross-entropy where steps end.

TRL had one, with cross-entropy over two classes and hard labels only, and dropped it (1.14). Own, on Transformers'
trainer: one label a token, so that a label may be a share (soft estimation, 2312.08935, eq. 4).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForTokenClassification, Trainer, TrainingArguments, set_seed

from posttrain.training.ranks import batch_mean

NOT_A_STEP = -100.0  # the label of a token at which no step ends


class ProcessRewardTrainer(Trainer):
    """Takes rows of `input_ids` and `labels`, of which one a token is in [0, 1] or NOT_A_STEP.

    The loss is the mean over the steps of a batch of −y log σ(r) − (1 − y) log(1 − σ(r)) (2211.14275).
    """

    def __init__(self, model: str, args: TrainingArguments, peft_config: Any = None, **arguments: Any) -> None:
        set_seed(args.seed)  # the head is drawn at random before Transformers' own trainer would seed
        config = AutoConfig.from_pretrained(model, num_labels=1, trust_remote_code=False)
        config.classifier_dropout = 0.0  # policies are trained without; a classifier's default is 0.1
        head = AutoModelForTokenClassification.from_pretrained(
            model, config=config, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
        if peft_config is not None:
            from peft import get_peft_model

            head = get_peft_model(head, peft_config)
        super().__init__(model=head, args=args, data_collator=padded_rows, **arguments)
        self.model_accepts_loss_kwargs = True  # how many steps a batch has, over all processes and passes

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean loss of the batch's steps."""
        labels_BT = inputs["labels"]
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        at_BT = labels_BT != NOT_A_STEP
        logits_S = outputs.logits[..., 0][at_BT].float()
        losses_S = torch.nn.functional.binary_cross_entropy_with_logits(logits_S, labels_BT[at_BT], reduction="none")
        loss = batch_mean(self, losses_S, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss


def padded_rows(rows: list[dict[str, list[float]]]) -> dict[str, torch.Tensor]:
    """A batch, padded on the right; masked, so any id will do."""
    width = max(len(row["input_ids"]) for row in rows)

    def padded(column: str, fill: float) -> list[list[float]]:
        return [[*row[column], *[fill] * (width - len(row[column]))] for row in rows]

    mask = [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows]
    return {
        "input_ids": torch.tensor(padded("input_ids", 0), dtype=torch.long),
        "attention_mask": torch.tensor(mask),
        "labels": torch.tensor(padded("labels", NOT_A_STEP)),
    }
