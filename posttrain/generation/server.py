"""Sampling from a vLLM server (`vllm serve`): many stages, or many pods, share a policy that is loaded once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.problems import Prompt
from posttrain.errors import ConfigError
from posttrain.generation.client import Client
from posttrain.generation.decoding import Completion, Decoding
from posttrain.generation.engine import Asked, Drawn, OnProgress, Sampler
from posttrain.generation.tokenizer import Tokens

if TYPE_CHECKING:
    from posttrain.generation.settings import SamplingSettings

_MOST_REQUESTS = 64
# Nats a token by which two engines may differ on average: bfloat16 gives about 0.02, another model whole nats.
_SAME_POLICY = 0.15


def sample_policy(
    policy: Artifact,
    prompts: Sequence[Prompt | Tokens],
    decoding: Decoding,
    settings: SamplingSettings,
    on_progress: OnProgress,
) -> list[list[Completion]]:
    """As every engine (`posttrain.generation.engine`).

    Raises:
        ConfigError: the server serves another policy, or in a way that changes what is measured.
        DataError, PolicyError: as `Asked.of`; or the policy's logits are not finite.
        ServerError: the server did not answer.
    """
    asked = Asked.of(policy.path, prompts, decoding)
    if not asked.prompts:
        return []
    client = _client(settings, decoding.samples)
    return _sampled(client, served_model(client, policy, asked), asked, on_progress)


@contextmanager
def sampling(policy: Artifact, longest: int, settings: SamplingSettings) -> Iterator[Sampler]:
    """As every engine (`posttrain.generation.engine`)."""
    client, model = _client(settings, settings.samples), ""

    def sample(
        prompts: Sequence[Tokens], decoding: Decoding, stops: Sequence[int], most: Sequence[int]
    ) -> list[list[Completion]]:
        nonlocal model
        asked = Asked.of(policy.path, prompts, decoding, stops, most)
        model = model or served_model(client, policy, asked)
        return _sampled(client, model, asked, lambda done, total: None)

    yield sample


def _client(settings: SamplingSettings, samples: int) -> Client:
    return Client(
        settings.server_url, settings.server_timeout, min(_MOST_REQUESTS, max(1, settings.batch_rows // samples))
    )


def _sampled(client: Client, model: str, asked: Asked, on_progress: OnProgress) -> list[list[Completion]]:
    """What is asked for, a request a prompt."""
    drawn: list[list[Drawn]] = [[] for _ in asked.prompts]
    with ThreadPoolExecutor(client.at_once) as threads:
        futures = {
            threads.submit(_draw, client, model, prompt, asked.parameters(index)): index
            for index, prompt in enumerate(asked.prompts)
        }
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                drawn[futures[future]] = future.result()
                on_progress(done, len(futures))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return [asked.completions(rows) for rows in drawn]


def _draw(client: Client, model: str, prompt: list[int], parameters: dict[str, Any]) -> list[Drawn]:
    """One prompt's draws, in the order of the samples."""
    choices = _ask(client, model, prompt, parameters)
    return [(choice["token_ids"], _finite(choice["logprobs"]["token_logprobs"])) for choice in choices]


def _ask(client: Client, model: str, prompt: list[int], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    # A server may watermark what it is not told to leave alone.
    asked = {"model": model, "prompt": prompt, "return_token_ids": True, "watermarking": False, **parameters}
    answer = client.post("/v1/completions", asked)
    choices = sorted(answer.get("choices", []), key=lambda choice: choice["index"])
    if len(choices) != parameters["n"] or any(not c.get("token_ids") or not c.get("logprobs") for c in choices):
        raise ConfigError(
            f"server_url={client.url}: its answers lack token ids or log-probabilities; serve the policy with "
            "vLLM 0.27 or newer (`vllm serve`)"
        )
    return choices


def _finite(logprobs: list[float | None]) -> list[float]:
    """JSON has no NaN, and vLLM writes -9999 for what is less."""
    return [math.nan if value is None or value <= -9999 else value for value in logprobs]


def served_model(client: Client, policy: Artifact, asked: Asked) -> str:
    """The name under which the server serves this very policy.

    A server's word is a name and a context length. A model served under the policy's digest is taken for it; of a
    single one under any other name, the log-probabilities are compared with the policy's own, loaded here for it.
    They tell another model from this one, and weights from before a training that changed much from those after it,
    but no small update: in bfloat16 that is less than the engines differ.

    Raises:
        ConfigError: it is another, its context is too short or too long, or its log-probabilities are not raw.
    """
    cards = [card for card in client.get("/v1/models").get("data", []) if not card.get("parent")]  # no adapters
    named = [card for card in cards if len(card["id"]) >= 12 and policy.digest.startswith(card["id"])]
    serve = f"vllm serve PATH --generation-config vllm --served-model-name {policy.digest[:12]}"
    if not named and len(cards) != 1:
        raise ConfigError(
            f"server_url={client.url} serves {', '.join(card['id'] for card in cards) or 'nothing'}, and none by the "
            f"digest of the policy {policy.record.name!r}; {serve}"
        )
    card = (named or cards)[0]
    _check_context(client, card, int(policy.record.facts.get("context", 0)), asked.longest)
    _check_raw(client, card["id"], asked)
    if not named:
        difference = _difference(client, card["id"], policy, asked)
        if difference > _SAME_POLICY:
            raise ConfigError(
                f"server_url={client.url}: {card['id']!r} is not the policy {policy.record.name!r} (log-probabilities "
                f"differ by {difference:.2f} nats a token); {serve}"
            )
    return str(card["id"])


def _check_context(client: Client, card: dict[str, Any], context: int, longest: int) -> None:
    served = card.get("max_model_len") or longest
    if context and served > context:
        raise ConfigError(
            f"server_url={client.url}: {card['id']!r} has a context of {served} tokens, the policy one of {context}: "
            "it is another; serve the policy"
        )
    if served < longest:
        raise ConfigError(
            f"server_url={client.url}: {card['id']!r} is served with a context of {served} tokens, but prompt and "
            f"completion take {longest}; serve it with --max-model-len {longest}, or lower max_new_tokens"
        )


def _check_raw(client: Client, model: str, asked: Asked) -> None:
    """Log-probabilities must be the policy's own: a temperature must not change them, and they must be such."""
    spreads = []
    for temperature in (1.0, 0.5):
        [choice] = _probe(client, model, asked, max_tokens=1, temperature=temperature, logprobs=5)
        [top] = choice["logprobs"]["top_logprobs"]
        if sum(map(math.exp, top.values())) > 1.01:
            raise ConfigError(f"server_url={client.url} returns logits; serve with --logprobs-mode raw_logprobs")
        spreads.append(max(top.values()) - min(top.values()))
    if spreads[1] > 1.5 * spreads[0]:
        raise ConfigError(
            f"server_url={client.url} returns log-probabilities after temperature; serve with "
            "--logprobs-mode raw_logprobs"
        )


def _difference(client: Client, model: str, policy: Artifact, asked: Asked) -> float:
    """Mean difference of the log-probabilities of one completion between the server and the policy, nats a token."""
    import torch

    from posttrain.generation.transformers import load_policy

    [choice] = _probe(client, model, asked, max_tokens=asked.rooms[0], temperature=1.0)
    prompt, tokens = asked.prompts[0], choice["token_ids"]
    ours, _ = load_policy(policy.path)
    with torch.inference_mode():
        logits = ours(torch.tensor([prompt + tokens], device=ours.device), use_cache=False).logits[0].float()
    own = logits[len(prompt) - 1 : -1].log_softmax(-1).gather(-1, torch.tensor(tokens, device=logits.device)[:, None])
    theirs = torch.tensor(_finite(choice["logprobs"]["token_logprobs"]), device=own.device)
    return float((own[:, 0] - theirs).abs().mean())


def _probe(client: Client, model: str, asked: Asked, **changes: Any) -> list[dict[str, Any]]:
    """One sample of the first prompt."""
    plain = {"n": 1, "seed": 0, "top_p": 1.0, "top_k": 0}
    return _ask(client, model, asked.prompts[0], {**asked.parameters(0), **plain, **changes})
