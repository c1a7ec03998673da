"""Sampling with vLLM in this process: paged attention and continuous batching, for policies that fill a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.problems import Prompt
from posttrain.errors import ConfigError
from posttrain.generation.decoding import Completion, Decoding
from posttrain.generation.engine import Asked, Drawn, OnProgress, Sampler
from posttrain.generation.tokenizer import Tokens

if TYPE_CHECKING:
    from posttrain.generation.settings import SamplingSettings


def sample_policy(
    policy: Artifact,
    prompts: Sequence[Prompt | Tokens],
    decoding: Decoding,
    settings: SamplingSettings,
    on_progress: OnProgress,
) -> list[list[Completion]]:
    """As every engine (`posttrain.generation.engine`).

    Raises:
        ConfigError: vLLM is not installed.
        DataError, PolicyError: as `Asked.of`; or the policy's logits are not finite.
    """
    asked = Asked.of(policy.path, prompts, decoding)
    if not asked.prompts:
        return []
    with _engine(policy.path, asked.longest, settings) as llm:
        return _drawn(llm, asked, on_progress)


@contextmanager
def sampling(policy: Artifact, longest: int, settings: SamplingSettings) -> Iterator[Sampler]:
    """As every engine (`posttrain.generation.engine`)."""

    def sample(
        prompts: Sequence[Tokens], decoding: Decoding, stops: Sequence[int], most: Sequence[int]
    ) -> list[list[Completion]]:
        return _drawn(llm, Asked.of(policy.path, prompts, decoding, stops, most), lambda done, total: None)

    with _engine(policy.path, longest, settings) as llm:
        yield sample


def _drawn(llm: Any, asked: Asked, on_progress: OnProgress) -> list[list[Completion]]:
    from vllm import SamplingParams

    outputs = llm.generate(
        [{"prompt_token_ids": prompt} for prompt in asked.prompts],
        [SamplingParams(**asked.parameters(index), detokenize=False) for index in range(len(asked.prompts))],
        use_tqdm=_bar(on_progress, len(asked.prompts)),
    )
    return [asked.completions(map(_read, output.outputs)) for output in outputs]


@contextmanager
def _engine(directory: Path, longest: int, settings: SamplingSettings) -> Iterator[Any]:
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # or it would report to its makers
    try:
        import vllm
    except ImportError as error:
        raise ConfigError(
            f"backend=vllm, but vLLM cannot be loaded here ({error}); run the stage on an image with "
            "posttrain[train,vllm] (schedule_sample_image), or choose backend=transformers or server"
        ) from None
    llm = vllm.LLM(
        model=str(directory),
        skip_tokenizer_init=True,
        trust_remote_code=False,
        load_format="safetensors",
        dtype=_dtype(directory),
        generation_config="vllm",  # none: the policy's own is not consulted
        logprobs_mode="raw_logprobs",  # of the policy itself, before temperature, top-k and top-p
        max_model_len=longest,
        max_num_seqs=settings.batch_rows,
        **{name: value for name, value in settings.vllm.model_dump().items() if value},
    )
    try:
        yield llm
    finally:
        # At once, not at some collection of garbage: what runs next needs the GPU's memory.
        llm.llm_engine.engine_core.shutdown()


def _dtype(directory: Path) -> str:
    """As the Transformers engine has it: as stored on a GPU (vLLM's "auto" makes float32 16 bits), else float32."""
    import torch
    from transformers import AutoConfig

    stored = AutoConfig.from_pretrained(directory, trust_remote_code=False).get_text_config().dtype
    if not torch.cuda.is_available():
        return "float32"
    return str(stored).removeprefix("torch.") if stored else "auto"


def _read(output: Any) -> Drawn:
    tokens = list(output.token_ids)
    return tokens, [step[token].logprob for token, step in zip(tokens, output.logprobs, strict=True)]


def _bar(on_progress: OnProgress, total: int) -> type:
    """vLLM's progress bar: it draws nothing, and reports every finished prompt."""
    from tqdm import tqdm

    class Bar(tqdm):
        finished = 0

        def display(self, *positional: Any, **named: Any) -> None:
            """Draws nothing."""

        def update(self, n: float | None = 1) -> bool | None:
            if self.iterable is None:  # else it is the bar of the prompts on their way in
                self.finished += 1
                on_progress(self.finished, total)
            return super().update(n)

    return Bar
