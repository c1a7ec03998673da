"""Whether rows that are packed into one sequence see each other: asked of the model itself."""

from __future__ import annotations

from typing import Any

from posttrain.errors import ContractError
from posttrain.training.ranks import gathered

_TOLERANCE = 1e-2  # of the largest logit: half precision rounds to within it, a leak is of the order of one


class IsolatesPackedRows:
    """Mixin for `trl.SFTTrainer`: before it trains on packed rows, the model must give each the logits it has alone.

    Transformers builds the attention masks of packed rows from their position ids, whatever the kind of attention; a
    convolution or a recurrent state (LFM2, Mamba hybrids) may run on from one row into the next. Some models say so.

    Raises:
        ContractError: rows see each other, or the model cannot be given packed ones. Where that is what was asked for
            (`packing_strategy=wrapped`), it is not looked at.
    """

    def train(self, *args: Any, **kwargs: Any) -> Any:
        config = self.args  # type: ignore[attr-defined]
        if config.packing and config.packing_strategy != "wrapped":
            _refuse_leaks(self.accelerator.unwrap_model(self.model), self.data_collator)  # type: ignore[attr-defined]
        return super().train(*args, **kwargs)  # type: ignore[misc]


def _refuse_leaks(model: Any, collator: Any) -> None:
    import torch

    training, device = model.training, next(model.parameters()).device
    vocabulary = model.config.get_text_config().vocab_size
    first, second = ([(start + 7 * n) % vocabulary for n in range(length)] for start, length in ((1, 9), (2, 6)))

    def logits(rows: list[list[int]]) -> Any:
        ids = [token for row in rows for token in row]
        packed = {"input_ids": ids, "labels": ids, "seq_lengths": [len(row) for row in rows]}
        batch = {name: v.to(device) if torch.is_tensor(v) else v for name, v in collator([packed]).items()}
        batch.pop("labels")
        return model(**batch, use_cache=False).logits[0, -len(second) :].float()

    name = type(model).__name__
    try:
        with torch.no_grad(), gathered(model):
            model.eval()
            together, alone = logits([first, second]), logits([second])
    except ValueError as error:  # how a model says that it cannot, as without a kernel that it needs
        raise ContractError(f"packing: {name}: {str(error).splitlines()[0]} Or train with packing=false") from error
    finally:
        model.train(training)
    if (together - alone).abs().max() > _TOLERANCE * alone.abs().max():
        raise ContractError(
            f"packing: rows packed together see each other in {name}, whose state runs on from one to "
            "the next; train with packing=false, or accept it as in pre-training with packing_strategy=wrapped"
        )
