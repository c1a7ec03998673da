"""Given texts under a policy: forward passes only, nothing is sampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from posttrain.artifacts.problems import Prompt
from posttrain.errors import DataError, PolicyError
from posttrain.generation.engine import OnProgress
from posttrain.generation.tokenizer import load_tokenizer, render
from posttrain.generation.transformers import evaluating

# Padded tokens of a batch. A forward holds a logit of every word at every one of them: 5 GB at 150 000 words, float32.
_BATCH_TOKENS = 2**13


@dataclass(frozen=True)
class Text:
    """A prompt and its completion; `ended`: with the EOS token, as in training.

    A text that completes messages is taken as it was sampled, a list of messages as the chat template renders it.
    """

    prompt: Prompt
    completion: Any  # text, or the messages of a conversation
    ended: bool = True


class Encoded(NamedTuple):
    """A text's tokens, and where its completion starts."""

    ids: list[int]
    start: int

    @property
    def completion(self) -> list[int]:
        return self.ids[self.start :]


def completion_logprobs(
    model: Any, tokenizer: Any, texts: Sequence[Text], batch_rows: int = 64, on_progress: OnProgress | None = None
) -> list[NDArray[np.float64]]:
    """Log-probability of every token of each completion, nats, given its prompt; in the order of the texts.

    Texts of like length are scored together, padded on the right; a completion without tokens gives an empty array.

    Args:
        batch_rows: most texts scored at once; fewer where they are long.
        on_progress: called with (texts done, texts in all) after each batch.

    Raises:
        DataError: no token stands before a completion, or a text is longer than the policy's context.
        PolicyError: the policy's logits are NaN.
    """
    encoded = encode_all(tokenizer, texts, context_of(model))
    found: list[NDArray[np.float64]] = [np.zeros(0)] * len(texts)
    for index, logprobs_TV in _completions(model, encoded, batch_rows, on_progress):
        tokens = torch.tensor(encoded[index].completion, device=logprobs_TV.device, dtype=torch.long)
        found[index] = np.asarray(logprobs_TV.gather(-1, tokens[:, None])[:, 0].cpu().numpy(), dtype=np.float64)
    return found


def top_logprobs(
    model: Any, encoded: Sequence[Encoded], k: int, batch_rows: int = 64, on_progress: OnProgress | None = None
) -> Iterator[tuple[int, NDArray[np.int32], NDArray[np.float32]]]:
    """The k likeliest tokens at every token of each completion: (index of the text, ids [T, k], nats [T, k]).

    Texts come out of order, as they are scored; likeliest tokens first.

    Raises:
        PolicyError: the policy's logits are NaN.
    """
    for index, logprobs_TV in _completions(model, encoded, batch_rows, on_progress):
        values_TK, ids_TK = logprobs_TV.topk(k, dim=-1)
        yield index, ids_TK.cpu().numpy().astype(np.int32), values_TK.cpu().numpy()


def _completions(
    model: Any, encoded: Sequence[Encoded], batch_rows: int, on_progress: OnProgress | None
) -> Iterator[tuple[int, torch.Tensor]]:
    """For each text its index, and the log-probabilities of every word at its completion's tokens, [T, V] float32."""
    with evaluating(model), torch.inference_mode():
        for members in by_length([row.ids for row in encoded], batch_rows, on_progress):
            rows = [encoded[index] for index in members]
            logits = model(**padded([row.ids for row in rows], 0, model.device), use_cache=False).logits
            for index, row, row_logits in zip(members, rows, logits, strict=True):
                # Float32 a row at a time: a batch would double what the forward holds.
                logprobs_TV = row_logits[row.start - 1 : len(row.ids) - 1].float().log_softmax(-1)
                if torch.isnan(logprobs_TV).any():
                    raise PolicyError("the policy's logits are NaN: its training diverged; use an earlier checkpoint")
                yield index, logprobs_TV


def reward_scores(
    directory: Path, texts: Sequence[Text], batch_rows: int = 64, on_progress: OnProgress | None = None
) -> NDArray[np.float64]:
    """A reward model's score of each text, a sequence-classification head of one label. Shape (N,).

    Texts are given as `trl.RewardTrainer` gives them: plain ones end with EOS, conversations as the template renders.

    Raises:
        DataError: no token stands before a completion, or a text is longer than the reward model's context.
        PolicyError: the directory's weights have no head of one label; Transformers would make up a random one.
    """
    from transformers import AutoModelForSequenceClassification

    model, tokenizer = load_scorer(directory, AutoModelForSequenceClassification), load_tokenizer(directory)
    # The head reads the last token that is not padding, by its id.
    model.config.pad_token_id = tokenizer.pad_token_id
    encoded = encode_all(tokenizer, [_as_messages(text) for text in texts], context_of(model))
    scores_N = np.zeros(len(texts))
    with torch.inference_mode():
        for members in by_length([row.ids for row in encoded], batch_rows, on_progress):
            rows = padded([encoded[index].ids for index in members], tokenizer.pad_token_id, model.device)
            scores_N[members] = model(**rows).logits[:, 0].float().cpu().numpy()
    return scores_N


def load_scorer(directory: Path, head: Any) -> Any:
    """A model with a head of one label, ready to score.

    Args:
        head: the class of Transformers' that reads it, as `AutoModelForSequenceClassification`.

    Raises:
        PolicyError: the directory's weights have no such head; Transformers would make up a random one.
    """
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, info = head.from_pretrained(
        directory,
        num_labels=1,
        dtype=torch.float32 if place.type == "cpu" else "auto",
        trust_remote_code=False,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # so that a head of another size is refused below, in one line
        output_loading_info=True,
    )
    wrong = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    if wrong:
        raise PolicyError(
            f"{directory}: no weights for {wrong[0]}, so not a reward model of one label; train one first"
        )
    return model.to(place).eval()


def _as_messages(text: Text) -> Text:
    """A reward model sees conversations whole, whoever sampled the last message."""
    if isinstance(text.prompt, str) or not isinstance(text.completion, str):
        return text
    return replace(text, completion=[{"role": "assistant", "content": text.completion}])


def context_of(model: Any) -> int:
    """A loaded model's context in tokens, 0 = unstated."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0


def encode_all(tokenizer: Any, texts: Sequence[Text], limit: int) -> list[Encoded]:
    """The texts as SFT trains on them.

    Args:
        limit: most tokens a text may have, 0 = any number.

    Raises:
        DataError: no token stands before a completion, or a text is longer than the limit.
    """
    encoded = []
    for index, text in enumerate(texts):
        row = _encode(tokenizer, text)
        if row.start == 0:
            raise DataError(f"text {index}: no token stands before the completion; give it a longer prompt")
        if limit and len(row.ids) > limit:
            raise DataError(
                f"text {index}: {len(row.ids)} tokens do not fit the model's context of {limit}; leave it out, or "
                "shorten it"
            )
        encoded.append(row)
    return encoded


def _encode(tokenizer: Any, text: Text) -> Encoded:
    """Token ids of prompt and completion. The completion starts where TRL's SFT has it start: where they diverge."""
    prompt, completion = render(tokenizer, text.prompt), text.completion
    if isinstance(completion, str):
        end = (text.ended and tokenizer.eos_token) or ""
        completion = completion.removesuffix(end) + end
    if isinstance(text.prompt, str):
        whole = list(tokenizer(text=text.prompt + completion)["input_ids"])
    elif isinstance(completion, str):
        whole = [*prompt, *tokenizer(text=completion, add_special_tokens=False)["input_ids"]]
    else:
        chat = tokenizer.apply_chat_template([*text.prompt, *completion], tokenize=True, return_dict=True)
        whole = list(chat["input_ids"])
    pairs = enumerate(zip(prompt, whole, strict=False))
    return Encoded(whole, next((i for i, (ours, theirs) in pairs if ours != theirs), min(len(prompt), len(whole))))


def by_length(
    encoded: Sequence[list[int]], batch_rows: int, on_progress: OnProgress | None = None
) -> Iterator[list[int]]:
    """Texts by index, of like length; the longest first, so that what does not fit in memory fails at once."""
    order = sorted(range(len(encoded)), key=lambda index: -len(encoded[index]))
    done = 0
    while done < len(order):
        rows = min(batch_rows, max(1, _BATCH_TOKENS // len(encoded[order[done]])))
        yield order[done : done + rows]
        done = min(done + rows, len(order))
        if on_progress is not None:
            on_progress(done, len(order))


def padded(rows: Sequence[list[int]], fill: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Token ids and mask, padded on the right, as a model's arguments."""
    width = max(map(len, rows))
    ids = [row + [fill] * (width - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}
