"""Given texts under a policy: forward passes only, nothing is sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from posttrain.artifacts.problems import Prompt
from posttrain.generation.tokenizer import load_tokenizer, render


@dataclass(frozen=True)
class Text:
    """A prompt and its completion; `ended`: with the EOS token, as in training."""

    prompt: Prompt
    completion: Any  # text, or the messages of a conversation
    ended: bool = True


def completion_logprobs(
    model: Any,
    tokenizer: Any,
    texts: Sequence[Text],
    batch_rows: int = 64,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[NDArray[np.float64]]:
    """Log-probability of every token of each completion, nats, given its prompt; in the order of the texts.

    Texts of like length are scored together, padded on the right; a completion without tokens gives an empty array.
    """
    encoded = [_encode(tokenizer, text) for text in texts]
    order = sorted(range(len(texts)), key=lambda index: len(encoded[index][0]))
    found: list[NDArray[np.float64]] = [np.zeros(0)] * len(texts)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch_rows):
            members = order[start : start + batch_rows]
            for index, values in zip(members, _score(model, [encoded[i] for i in members]), strict=True):
                found[index] = values
            if on_progress is not None:
                on_progress(start + len(members), len(order))
    return found


def _encode(tokenizer: Any, text: Text) -> tuple[list[int], int]:
    """Token ids of prompt and completion, and how many of them are the prompt's."""
    prompt = render(tokenizer, text.prompt)
    if isinstance(text.prompt, str):
        whole = text.prompt + text.completion
        ended = text.ended and tokenizer.eos_token and not whole.endswith(tokenizer.eos_token)
        return list(tokenizer(text=whole + (tokenizer.eos_token if ended else ""))["input_ids"]), len(prompt)
    messages = text.completion
    if isinstance(messages, str):
        messages = [{"role": "assistant", "content": messages}]
    chat = tokenizer.apply_chat_template([*text.prompt, *messages], tokenize=True, return_dict=True)
    return list(chat["input_ids"]), len(prompt)


def _score(model: Any, rows: Sequence[tuple[list[int], int]]) -> list[NDArray[np.float64]]:
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in rows], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row, _ in rows], device=model.device)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    picked = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0].cpu().numpy().astype(np.float64)
    return [values[prompt - 1 : len(row) - 1] for values, (row, prompt) in zip(picked, rows, strict=True)]


def reward_scores(directory: Path, texts: Sequence[Text], batch_rows: int = 64) -> NDArray[np.float64]:
    """A reward model's score of each text, a sequence-classification head of one label. Shape (N,)."""
    from transformers import AutoModelForSequenceClassification

    tokenizer = load_tokenizer(directory)
    model = AutoModelForSequenceClassification.from_pretrained(
        directory, num_labels=1, trust_remote_code=False, use_safetensors=True
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    encoded = [_encode(tokenizer, text)[0] for text in texts]
    scores: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(encoded), batch_rows):
            rows = encoded[start : start + batch_rows]
            padded = tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt").to(model.device)
            scores += model(**padded).logits[:, 0].float().tolist()
    return np.array(scores)
