"""What merging costs: memory, and speed against copying on the same disk.

    PYTHONPATH=. python benchmarks/merging.py [--gib 1] [--repeats 3] [--directory DIR] [--only METHOD]

Makes a base and two policies of so many GiB each, in bfloat16, with the tensors of a small Llama and in shards, then
takes turns at copying one (`cp`, no reflink) and at merging by each method, every time from a cold cache (the files'
pages are dropped first) and until the bytes are on disk (`fsync`). Speed is bytes read and written a second: a copy
reads and writes a checkpoint, a merge reads two or three and writes one; what a method reads again it finds in the
page cache, so that is not counted. Each merge is a process of its own, as in a pod. Memory is its resident peak in
all, with Python and every library, and what of that came after its imports.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

METHODS = ("linear", "slerp", "task_arithmetic", "ties", "dare")
_SHARD = 2**28  # bytes
_NOISE = 2**24  # elements of noise that every checkpoint is made of

# Runs before every copy and merge. The host of a virtual machine takes back memory that has been free for two seconds,
# and then the first read of a page costs twenty times what reading does: a merge that fills the cache with 4 GiB was
# measured against a copy that found its 2 GiB at hand.
_TOUCH = "held = [b'1' * 2**20 for _ in range(6 * 2**10)]"

# Runs in a process of its own: what the stage does between its parents' check and its record.
_MERGE = """
import json, os, subprocess, sys, time
from pathlib import Path
from posttrain.artifacts.artifact import Artifact
from posttrain.components.merge import stage
from posttrain.progress import Progress
from posttrain.stage import Parents
from posttrain.training import merging, policy, weights

def peak():
    # Not getrusage, whose peak starts at that of the process which started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024

touch, method, out, base, *policies = sys.argv[1:]
opened = {"policies": [Artifact(Path(path), None) for path in policies]}
if method not in ("linear", "slerp"):
    opened["base"] = [Artifact(Path(base), None)]
else:
    opened["base"] = []
subprocess.run([sys.executable, "-c", touch], check=True)
imported, start, worked = peak(), time.monotonic(), time.process_time()
Path(out).mkdir()
stage.run(stage.MergeSettings(method=method), Parents(opened), Path(out), Progress("merge"))
for file in Path(out).iterdir():
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
times = {"seconds": time.monotonic() - start, "processor": time.process_time() - worked}
print(json.dumps({**times, "imported": imported, "peak": peak()}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="on the disk in question")
    parser.add_argument("--only", choices=METHODS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as scratch:
        home = Path(scratch)
        for seed, name in enumerate(("base", "one", "two")):
            checkpoint(home / name, seed, int(options.gib * 2**30))
        methods = [options.only] if options.only else list(METHODS)
        copies: list[float] = []
        merges: dict[str, list[dict[str, float]]] = {method: [] for method in methods}
        for _ in range(options.repeats):
            for method in methods:
                copies.append(copied(home))
                merges[method].append(merged(home, method))
        report(home, copies, merges)


def report(home: Path, copies: list[float], merges: dict[str, list[dict[str, float]]]) -> None:
    one = size(home / "one")
    copying = 2 * one / statistics.median(copies)
    print(f"{one / 2**30:.2f} GiB a checkpoint, {os.cpu_count()} cores; copying {copying / 2**20:.0f} MiB/s")
    print("| method | seconds | of processor | MiB/s, read and written | of copying | peak MiB | above imports |")
    print("|---|---|---|---|---|---|---|")
    for method, runs in merges.items():
        seconds, processor = (statistics.median(run[key] for run in runs) for key in ("seconds", "processor"))
        speed = (3 if method in ("linear", "slerp") else 4) * one / seconds
        peak, above = max(run["peak"] for run in runs), max(run["peak"] - run["imported"] for run in runs)
        figures = (f"{seconds:.1f}", f"{processor:.1f}", f"{speed / 2**20:.0f}", f"{speed / copying:.0%}")
        print(f"| {method} | {' | '.join(figures)} | {peak:.0f} | {above:.0f} |")


def copied(home: Path) -> float:
    cold(home)
    subprocess.run([sys.executable, "-c", _TOUCH], check=True)
    start = time.monotonic()
    subprocess.run(["cp", "-r", "--reflink=never", home / "one", home / "copy"], check=True)
    for file in (home / "copy").iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    seconds = time.monotonic() - start
    removed(home / "copy")
    return seconds


def merged(home: Path, method: str) -> dict[str, float]:
    cold(home)
    arguments = [_TOUCH, method, *(str(home / name) for name in ("out", "base", "one", "two"))]
    done = subprocess.run([sys.executable, "-c", _MERGE, *arguments], capture_output=True, text=True, check=True)
    removed(home / "out")
    return dict(json.loads(done.stdout))


def cold(home: Path) -> None:
    """Drop the checkpoints' pages from the cache; they are clean, having been written to disk."""
    for file in home.rglob("*.safetensors"):
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


def removed(directory: Path) -> None:
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()


def tensors(total: int) -> Iterator[tuple[str, list[int]]]:
    """A Llama of about so many bytes in bfloat16: 2048 wide, an embedding of 32000 tokens, layers up to the size."""
    wide, inner, words = 2048, 5632, 32000
    yield "model.embed_tokens.weight", [words, wide]
    layer = {
        "self_attn.q_proj": [wide, wide],
        "self_attn.k_proj": [wide // 4, wide],
        "self_attn.v_proj": [wide // 4, wide],
        "self_attn.o_proj": [wide, wide],
        "mlp.gate_proj": [inner, wide],
        "mlp.up_proj": [inner, wide],
        "mlp.down_proj": [wide, inner],
        "input_layernorm": [wide],
        "post_attention_layernorm": [wide],
    }
    left = total - 2 * words * wide
    each = 2 * sum(int(np.prod(shape)) for shape in layer.values())
    for number in range(max(1, round(left / each))):
        for name, shape in layer.items():
            yield f"model.layers.{number}.{name}.weight", shape


def checkpoint(directory: Path, seed: int, total: int) -> None:
    """Write a policy of random weights: the base's, and a policy's a little beside them."""
    from posttrain.training.weights import stored_as

    directory.mkdir()
    random = np.random.default_rng(0)
    noise = random.standard_normal(_NOISE, np.float32) * np.float32(0.02)
    own = np.random.default_rng(seed).standard_normal(_NOISE, np.float32) * np.float32(0.002 if seed else 0)
    bits = stored_as("BF16", noise + own)
    shards: list[dict[str, list[int]]] = [{}]
    for name, shape in tensors(total):
        if shards[-1] and 2 * sum(int(np.prod(other)) for other in [*shards[-1].values(), shape]) > _SHARD:
            shards.append({})
        shards[-1][name] = shape
    names = [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    for file, shard in zip(names, shards, strict=True):
        write_shard(directory / file, shard, bits, random)
    index = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (directory / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (directory / "tokenizer.json").write_text("{}")


def write_shard(file: Path, shard: dict[str, list[int]], bits: np.ndarray, random: np.random.Generator) -> None:
    header, end = {}, 0
    for name, shape in shard.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with file.open("wb") as sink:
        sink.write(len(text).to_bytes(8, "little") + text)
        for shape in shard.values():
            start, left = int(random.integers(_NOISE)), int(np.prod(shape))
            while left:
                sink.write(bits[start : start + left].data)
                left -= len(bits[start : start + left])
                start = 0
        sink.flush()
        os.fsync(sink.fileno())


if __name__ == "__main__":
    main()
