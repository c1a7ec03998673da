"""vLLM for tests: the installed one if there is one, else a stand-in with the fields that are used, and its server.

The stand-in draws with the Transformers engine, so that what the tests compare is real; it refuses every argument,
parameter and field that vLLM 0.30 (whose sources it was written against) would refuse, and those nobody uses.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import types
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from posttrain.generation.decoding import Decoding
from posttrain.generation.transformers import load_policy, sample

REAL = find_spec("vllm") is not None
# Otherwise vLLM takes most of the memory for its cache, and binds its threads to cores that others are busy on.
ON_A_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@dataclass
class SamplingParams:
    n: int
    seed: int | None
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    stop_token_ids: list[int]
    ignore_eos: bool
    logprobs: int
    detokenize: bool = True

    def __post_init__(self) -> None:
        assert self.temperature > 0 or self.n == 1, "n must be 1 when using greedy sampling"
        assert self.ignore_eos and self.stop_token_ids, "the stand-in knows only ends that were asked for"


@dataclass
class LLM:
    model: str
    skip_tokenizer_init: bool
    trust_remote_code: bool
    load_format: str
    dtype: str
    generation_config: str
    logprobs_mode: str
    max_model_len: int
    max_num_seqs: int
    tensor_parallel_size: int
    gpu_memory_utilization: float
    enforce_eager: bool = False
    max_num_batched_tokens: int | None = None
    shut_down: bool = False

    def __post_init__(self) -> None:
        assert (self.trust_remote_code, self.load_format, self.generation_config) == (False, "safetensors", "vllm")
        self.policy = load_policy(Path(self.model), "cpu")
        self.llm_engine = types.SimpleNamespace(engine_core=self)

    def shutdown(self) -> None:
        self.shut_down = True

    def generate(self, prompts: list[Any], params: list[SamplingParams], use_tqdm: Callable[..., Any]) -> list[Any]:
        bar = use_tqdm(total=len(prompts), desc="Processed prompts")
        results = []
        for prompt, parameters in zip(prompts, params, strict=True):
            results.append(self.one(prompt["prompt_token_ids"], parameters))
            bar.update(parameters.n)
        bar.close()
        return results

    def one(self, prompt: list[int], parameters: SamplingParams) -> Any:
        model, tokenizer = self.policy
        assert len(prompt) + parameters.max_tokens <= self.max_model_len
        model.generation_config.eos_token_id = parameters.stop_token_ids
        decoding = Decoding(
            samples=parameters.n,
            max_new_tokens=parameters.max_tokens,
            temperature=parameters.temperature,
            top_p=parameters.top_p,
            top_k=parameters.top_k,
            seed=parameters.seed or 0,
        )
        [completions] = sample(model, tokenizer, [prompt], decoding)
        return types.SimpleNamespace(outputs=[self._output(i, prompt, c) for i, c in enumerate(completions)])

    def _output(self, index: int, prompt: list[int], completion: Any) -> Any:
        steps = [
            {token: types.SimpleNamespace(logprob=logprob)}
            for token, logprob in zip(completion.tokens, completion.logprobs, strict=True)
        ]
        return types.SimpleNamespace(index=index, token_ids=completion.tokens, logprobs=steps)

    def top(self, prompt: list[int], count: int) -> dict[str, float]:
        model, _ = self.policy
        with torch.inference_mode():
            values, ids = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1).topk(count)
        return {f"token_id:{i}": value for i, value in zip(ids.tolist(), values.tolist(), strict=True)}


def module() -> types.ModuleType:
    """What `import vllm` gives."""
    made = types.ModuleType("vllm")
    made.LLM, made.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    return made


@dataclass
class Server:
    """A running server, and what to do wrong: `faults` are taken one by one, before an answer."""

    directory: Path
    names: list[str]
    context: int
    processed: bool = False
    without: str = ""
    key: str = ""
    faults: list[Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._llm = LLM(str(self.directory), True, False, "safetensors", "", "vllm", "", self.context, 1, 1, 0.9)

    def models(self) -> dict[str, Any]:
        card = {"object": "model", "root": str(self.directory), "parent": None, "max_model_len": self.context}
        return {"object": "list", "data": [{"id": name, **card} for name in self.names]}

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body.pop("model") in self.names
        assert body.pop("return_token_ids") is True and body.pop("watermarking") is False
        prompt, parameters = body.pop("prompt"), SamplingParams(**body)
        with self._lock:
            drawn = self._llm.one(prompt, parameters).outputs
            scale = parameters.temperature if self.processed and parameters.temperature else 1
            top = self._llm.top(prompt, parameters.logprobs or 1)
        choices = [
            {
                "index": output.index,
                "text": "",
                "token_ids": list(output.token_ids),
                "logprobs": {
                    "token_logprobs": [next(iter(step.values())).logprob for step in output.logprobs],
                    "top_logprobs": [{name: value / scale for name, value in top.items()} for _ in output.logprobs],
                },
            }
            for output in drawn
        ]
        for choice in choices:
            choice.pop(self.without, None)
        return {"object": "text_completion", "choices": choices[::-1]}  # the order is the index's, not the list's


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    """A stand-in for `vllm serve` on a free port of the loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(lambda: server.models() if self.path == "/v1/models" else None)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(lambda: server.complete(body) if self.path == "/v1/completions" else None)

        def _answer(self, work: Callable[[], dict[str, Any] | None]) -> None:
            server.asked.append(self.path)
            if server.faults:
                return server.faults.pop(0)(self)
            if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
                return answer(self, 401, {"error": "Unauthorized"})
            found = work()
            return answer(self, 200 if found else 404, found or {"detail": "Not Found"})

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def answer(handler: BaseHTTPRequestHandler, status: int, value: Any) -> None:
    body = json.dumps(value).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def busy(handler: BaseHTTPRequestHandler) -> None:
    answer(handler, 503, {"error": {"message": "overloaded"}})


def reset(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()


def slow(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(0.8)


def drips(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then, each of them in time."""
    with contextlib.suppress(OSError):
        for byte in b"HTTP/1.0 200 OK\r\nX-Padding: x":
            handler.wfile.write(bytes([byte]))
            time.sleep(0.1)


def cut_short(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')


@contextlib.contextmanager
def vllm_serve(directory: Path, name: str, context: int, **options: str) -> Iterator[str]:
    """The URL of a real `vllm serve`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = {
        "model": str(directory),
        "host": "127.0.0.1",
        "port": str(port),
        "dtype": "float32",
        "max-model-len": str(context),
        "served-model-name": name,
        **options,
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    command += [part for flag, value in flags.items() for part in (f"--{flag}", value)]
    process = subprocess.Popen(command, env={**os.environ, **ON_A_CPU})
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=1):
                break
            assert process.poll() is None, "vllm serve ended"
            time.sleep(0.5)
        else:
            raise AssertionError("vllm serve did not start")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)
