"""Learning from a teacher's stored distributions: off-policy logit distillation (Hinton et al., 1503.02531).

Only the teacher's k likeliest tokens are stored, with the probability that they leave out, and two readings of that:

* `bucket`: the others are one outcome. The divergence between the two coarser distributions is at most the whole
  one (data-processing inequality) and is zero exactly where student and teacher agree on the k tokens; how the rest
  is shared among the other tokens is left to the student.
* `renormalise`: both are conditioned on the k tokens. It says nothing of how much probability the student keeps for
  other tokens, so the rest may drift; but it is the only one defined at another temperature than 1, where the
  teacher's rest is not known.
(Renormalising the teacher alone, as some libraries do, would teach the student that the rest is impossible.)
Half floats round each stored probability by up to 0.02%, so about as much may end up in the bucket.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posttrain.artifacts.topk import COLUMN, TopK
from posttrain.errors import ContractError
from posttrain.training.ranks import batch_mean, mean_of_all
from posttrain.training.tokens import training_tokens

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100  # a label that is no target


def divergence(logits_NV: Tensor, ids_NK: Tensor, logprobs_NK: Tensor, temperature: float, bucket: bool) -> Tensor:
    """Forward KL(teacher ‖ student) on the stored support, nats a position, shape (N,).

    Args:
        logits_NV: the student's, float32.
        ids_NK: the teacher's likeliest tokens.
        logprobs_NK: their log-probabilities.
        temperature: divides the logits of both; the divergence is multiplied by its square, which keeps the size of
            the gradient (1503.02531, section 2).
        bucket: with the other tokens as one outcome, at temperature 1 only.
    """
    import torch

    if not bucket or ids_NK.size(-1) == logits_NV.size(-1):
        ours_NK = (logits_NV.gather(-1, ids_NK) / temperature).log_softmax(-1)
        theirs_NK = (logprobs_NK / temperature).log_softmax(-1)
        return temperature**2 * (theirs_NK.exp() * (theirs_NK - ours_NK)).sum(-1)
    ours_NK = logits_NV.log_softmax(-1).gather(-1, ids_NK)
    stored_N = (logprobs_NK.exp() * (logprobs_NK - ours_NK)).sum(-1)
    rest_N = (1 - logprobs_NK.exp().sum(-1)).clamp(min=0)
    # Floats cannot tell a smaller rest from none.
    ours_rest_N = -torch.expm1(ours_NK.logsumexp(-1).clamp(max=-1e-7))
    return stored_N + torch.xlogy(rest_N, rest_N) - rest_N * ours_rest_N.log()


def taught_rows(
    tokenizer: Any, rows: Sequence[Mapping[str, Any]], stored: int, max_length: int
) -> tuple[Any, list[int]]:
    """A `datasets.Dataset` of tokenised rows, `row` their index among those given, and each given row's tokens.

    Args:
        stored: the longest sequence when the distributions were stored.
        max_length: the longest now, no longer.

    Raises:
        ContractError: a row has other tokens than distributions were stored for.
    """
    from datasets import Dataset

    whole, lengths = training_tokens(tokenizer, rows, stored)
    for number, (row, encoded) in enumerate(zip(rows, whole, strict=True), start=1):
        if row[COLUMN] != len(encoded.completion):
            raise ContractError(
                f"data row {number} has {len(encoded.completion)} completion tokens where {row[COLUMN]} were stored; "
                "store them again with the stage teacher_logits"
            )
    shortened = [encoded._replace(ids=encoded.ids[:max_length]) for encoded in whole]
    kept = [index for index, encoded in enumerate(shortened) if encoded.completion]
    taught = [shortened[index] for index in kept]
    labels = [[IGNORED] * encoded.start + encoded.completion for encoded in taught]
    return Dataset.from_dict({"input_ids": [encoded.ids for encoded in taught], "labels": labels, "row": kept}), lengths


class Collator:
    """Pads tokenised rows on the right, and reads their stored distributions from disk."""

    def __init__(self, padding: int, stored: TopK) -> None:
        self._padding, self._stored = padding, stored

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        import numpy as np
        import torch
        from torch.nn.utils.rnn import pad_sequence

        def padded(values: list[list[int]], fill: int) -> Tensor:
            return pad_sequence([torch.tensor(value) for value in values], batch_first=True, padding_value=fill)

        # A row that was cut has fewer targets than were stored.
        targets = [sum(label != IGNORED for label in row["labels"]) for row in rows]
        stored = [self._stored[row["row"]] for row in rows]
        ids, logprobs = (
            np.concatenate([pair[side][:own] for pair, own in zip(stored, targets, strict=True)]) for side in (0, 1)
        )
        return {
            "input_ids": padded([row["input_ids"] for row in rows], self._padding),
            "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0),
            "labels": padded([row["labels"] for row in rows], IGNORED),
            "teacher_ids": torch.from_numpy(ids.astype(np.int64)),
            "teacher_logprobs": torch.from_numpy(logprobs),
        }


class LearnsStoredLogits:
    """Mixin for `trl.SFTTrainer` on rows of `Collator`: (1 − w) × divergence + w × NLL, over the batch's tokens.

    Args:
        hard_weight: w, the weight of the tokens themselves.
        temperature: of the divergence.
        bucket: whether the tokens that were not stored count as one.
    """

    def __init__(self, *args: Any, hard_weight: float, temperature: float, bucket: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hard_weight, self._temperature, self._bucket = hard_weight, temperature, bucket

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["input_ids", "labels", "row"]

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        from torch.nn.functional import cross_entropy

        outputs = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False, return_dict=True
        )
        labels = inputs["labels"][:, 1:]
        taught = labels != IGNORED
        logits_NV = outputs.logits[:, :-1][taught].float()
        soft_N = divergence(
            logits_NV, inputs["teacher_ids"], inputs["teacher_logprobs"], self._temperature, self._bucket
        )
        hard_N = cross_entropy(logits_NV, labels[taught], reduction="none")
        loss = batch_mean(self, (1 - self._hard_weight) * soft_N + self._hard_weight * hard_N, num_items_in_batch)
        metrics = self._metrics["train" if self.model.training else "eval"]  # type: ignore[attr-defined]
        for name, value_N in (("divergence", soft_N), ("nll", hard_N)):
            metrics[name].append(float(mean_of_all(self.accelerator, value_N)))  # type: ignore[attr-defined]
        return (loss, outputs) if return_outputs else loss
