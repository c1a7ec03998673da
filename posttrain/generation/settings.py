"""How a stage samples a policy: the settings, and the one way to do it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.problems import Problem, Prompt
from posttrain.generation.decoding import Completion, Decoding
from posttrain.generation.engine import Sampler
from posttrain.generation.tokenizer import Tokens
from posttrain.progress import Progress
from posttrain.settings import Settings


class VLLMSettings(BaseModel):
    """How vLLM uses the machine (backend=vllm): arguments of `vllm.LLM`. None of them changes what is sampled from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tensor_parallel_size: int = Field(default=1, gt=0, description="GPUs that hold the policy together")
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1, description="share of each GPU's memory to use")
    enforce_eager: bool = Field(default=False, description="no CUDA graphs: starts sooner, samples more slowly")
    max_num_batched_tokens: int = Field(default=0, ge=0, description="tokens of a step; 0 = vLLM's own")


class SamplingSettings(Settings):
    """Decoding."""

    samples: int = Field(default=8, gt=0, description="samples a problem")
    max_new_tokens: int = Field(default=512, gt=0, description="longest completion, in tokens")
    temperature: float = Field(default=1.0, ge=0, description="sampling temperature; 0 = greedy")
    top_p: float = Field(default=1.0, gt=0, le=1, description="nucleus")
    top_k: int = Field(default=0, ge=0, description="0 = all tokens")
    batch_rows: int = Field(default=512, gt=0, description="sequences decoded together")
    backend: Literal["transformers", "vllm", "server"] = Field(
        default="transformers", description="what samples: Transformers, vLLM in this pod, or a vLLM server"
    )
    server_url: str = Field(default="", description="of the server, as http://host:8000 (backend=server)")
    server_timeout: float = Field(default=600, gt=0, description="seconds in which it must have sampled one problem")
    vllm: VLLMSettings = Field(default=VLLMSettings(), description="how vLLM uses the machine (backend=vllm)")

    @model_validator(mode="after")
    def _backend_has_what_it_needs(self) -> SamplingSettings:
        if (self.backend == "server") != bool(self.server_url):
            remedy = "choose backend=server" if self.server_url else "give the server's URL, as http://host:8000"
            raise ValueError(f"backend={self.backend} with server_url={self.server_url!r}; {remedy}")
        if self.backend != "vllm" and self.vllm != VLLMSettings():
            raise ValueError(f"backend={self.backend} with settings for vllm; choose backend=vllm, or leave them out")
        url = urlsplit(self.server_url)
        if self.server_url and (url.scheme not in ("http", "https") or not url.hostname):
            raise ValueError(f"server_url={self.server_url!r} is no URL; give one, as http://host:8000")
        if url.username or url.password:
            raise ValueError("server_url holds credentials, which would be recorded; give the key as VLLM_API_KEY")
        return self


def sample_problems(
    policy: Artifact, problems: Sequence[Problem], settings: SamplingSettings, progress: Progress
) -> list[list[Completion]]:
    """`settings.samples` completions of every problem's prompt, in the order of the problems."""
    return sample_prompts(policy, [problem.prompt for problem in problems], settings, progress, "problem")


def sample_prompts(
    policy: Artifact, prompts: Sequence[Prompt | Tokens], settings: SamplingSettings, progress: Progress, unit: str
) -> list[list[Completion]]:
    """`settings.samples` completions of every prompt, in their order; of token ids, what goes on from them.

    Args:
        unit: what a prompt is, for the log.
    """
    completions: list[list[Completion]] = _engine(settings).sample_policy(
        policy,
        prompts,
        Decoding(**settings.model_dump(include=set(Decoding.model_fields))),
        settings,
        lambda done, total: progress.update(done, total, unit),
    )
    return completions


def sampling(policy: Artifact, longest: int, settings: SamplingSettings) -> AbstractContextManager[Sampler]:
    """A policy that is loaded once, to sample from again and again; see `posttrain.generation.engine`."""
    loaded: AbstractContextManager[Sampler] = _engine(settings).sampling(policy, longest, settings)
    return loaded


def _engine(settings: SamplingSettings) -> Any:
    return import_module(f"posttrain.generation.{settings.backend}")
