"""Any of Reasoning Gym's hundred tasks, judged by the task's own scorer.

    {"prompt": "Find the GCD of 12 and 18.", "verifier": "reasoning_gym",
     "reference": {"task": "gcd", "entry": {"question": "...", "answer": "6", "metadata": {}}}}

or, to make the entry again, `{"task": "gcd", "seed": 42, "index": 7}`; `config` holds the task's settings. The answer
is the text of the last `<answer>...</answer>`, or the whole completion. Scores between 0 and 1 are the task's partial
credit. Where the scorer raises, the answer is wrong if the gold answer can be scored, else unscorable.

Some scorers run the answer as Python (see `harmless`); there an answer that is more than a literal or formula scores 0.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from typing import Any

from reasoning_gym.factory import DATASETS, create_dataset
from reasoning_gym.utils import extract_answer

from posttrain.errors import VerifierError, nearest
from posttrain.verifiers.harmless import harmless
from posttrain.verifiers.reference import complains, fields
from posttrain.verifiers.verdict import NOT_FOUND, Verdict

# Their scorers compare with tuples of tuples, which JSON turns into lists.
TUPLES = {"arc_agi", "rearc"}


def verify(completion: str, reference: Any, prompt: str = "") -> Verdict:
    task, dataset, entry = _read(reference)
    answer = (extract_answer(completion) or "").strip() if "<answer>" in completion else completion.strip()
    if not answer:
        return NOT_FOUND
    if not harmless(task, answer, entry["answer"]):
        return Verdict(0.0, answer)
    try:
        score = dataset.score_answer(answer, entry)
    except Exception:
        if answer == entry["answer"] or validate(reference) is not None:
            raise
        score = 0.0  # for example prime_factorization, whose scorer reads "none" with int()
    return Verdict(min(max(float(score), 0.0), 1.0), answer)


@complains
def validate(reference: Any) -> str | None:
    task, dataset, entry = _read(reference)
    if entry["answer"] is None:
        return None  # some tasks have many right answers and give none
    score = dataset.score_answer(entry["answer"], entry)
    return None if score == 1 else f"reasoning_gym: {task} gives its own answer {entry['answer']!r} a score of {score}"


def _read(reference: Any) -> tuple[str, Any, dict[str, Any]]:
    given = fields(reference, "reasoning_gym", ["task"], ["entry", "config", "seed", "index"])
    task, config, entry = given["task"], given.get("config", {}), given.get("entry")
    if task not in DATASETS:
        raise VerifierError(f"reasoning_gym: unknown task {task!r}{nearest(str(task), DATASETS)}")
    if not isinstance(config, dict):
        raise VerifierError(f"reasoning_gym: config must be an object, not {config!r}")
    if entry is None:
        seed, index = given.get("seed"), given.get("index")
        if type(seed) is not int or type(index) is not int or index < 0:
            raise VerifierError("reasoning_gym: without 'entry' the reference needs whole numbers 'seed' and 'index'")
        dataset = _dataset(task, repr({**config, "seed": seed, "size": index + 1}))
        return task, dataset, dataset[index]
    entry = fields(entry, "reasoning_gym entry", ["question"], ["answer", "metadata"])
    metadata = _tuples(entry.get("metadata", {})) if task in TUPLES else entry.get("metadata", {})
    dataset = _dataset(task, repr(config))
    return task, dataset, {"question": entry["question"], "answer": entry.get("answer"), "metadata": metadata}


@lru_cache(maxsize=256)
def _dataset(task: str, config: str) -> Any:
    try:
        return create_dataset(task, **ast.literal_eval(config))  # as text, because a dict cannot be a cache's key
    except (TypeError, ValueError, AssertionError) as error:
        raise VerifierError(f"reasoning_gym: {task} refuses its config: {error}") from error


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(one) for key, one in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
