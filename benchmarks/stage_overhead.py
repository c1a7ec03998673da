"""What a training stage costs beside a bare TRL script of the same job: same data, seed and config, same weights.

    PYTHONPATH=. python benchmarks/stage_overhead.py [--job sft|grpo] [--pairs 5] [--seconds 30]

Each run is a process of its own, bare and stage in turn, so that a busy machine slows both alike; the figures are taken
within a pair. CPU seconds (user + system, with children) stand beside wall-clock ones for the same reason.

    loop    seconds inside `trainer.train()`, stage / bare
    added   seconds outside it (start-up, imports, checks, load, save, digests, record, page), stage - bare

The bars are 1.02 and 2 s, on medians. Steps are chosen so that the bare loop takes `--seconds`. A pair whose final
weights are not bit-identical is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BARS = {"loop": 1.02, "added": 2.0}
CHARACTERS = "0123456789+-*/()= "
ROWS = 2000
TRIAL_STEPS = {"sft": 60, "grpo": 15}
BATCH = {"sft": 8, "grpo": 32}
NEW_TOKENS = 24


@dataclass(frozen=True)
class Cost:
    """One run: wall-clock and CPU seconds of the loop and of the whole process."""

    loop: float
    loop_cpu: float
    total: float
    total_cpu: float


@contextmanager
def timed_loop(report: Path) -> Iterator[None]:
    """Times every `train()` of Transformers' trainer, the same way for both sides."""
    from transformers import Trainer

    plain = Trainer.train

    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        start, cpu = time.perf_counter(), cpu_seconds(resource.RUSAGE_SELF)
        result = plain(self, *args, **kwargs)
        spent = time.perf_counter() - start, cpu_seconds(resource.RUSAGE_SELF) - cpu
        report.write_text(json.dumps(spent))
        return result

    Trainer.train = train
    yield
    Trainer.train = plain


def cpu_seconds(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def prepare(home: Path) -> None:
    """A small Qwen2 (hidden 128, 4 layers), sums to imitate and sums to solve, as files and as artifacts."""
    import torch
    from posttrain.components.catalogue import load_stage
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from posttrain.stage import execute
    from tests.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer(CHARACTERS, context=256)
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=4, max_position_embeddings=256, **sizes, **ends)
    Qwen2ForCausalLM(config).save_pretrained(home / "model")
    tokenizer.save_pretrained(home / "model")
    chance = random.Random(0)
    terms = [[chance.randint(0, 999) for _ in range(8)] for _ in range(ROWS)]
    sums = [("+".join(map(str, row)) + "=", str(sum(row))) for row in terms]
    rows = {
        "trajectories": [{"prompt": prompt, "completion": answer} for prompt, answer in sums],
        "problems": [{"prompt": prompt, "verifier": "exact", "reference": answer} for prompt, answer in sums],
    }
    execute(load_stage("base"), {}, {"uri": str(home / "model")}, home / "init")
    for kind, content in rows.items():
        (home / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
        settings = {"uri": str(home / f"{kind}.jsonl"), "kind": kind}
        execute(load_stage("prepare"), {}, settings, home / kind)


def run_stage(job: str, steps: int, home: Path, out: Path) -> None:
    """The job as a stage, page included, as a pod runs it."""
    from posttrain.components.catalogue import load_stage

    from posttrain.stage import execute

    settings = {"max_steps": steps, "batch_size": BATCH[job], "learning_rate": 1e-4, "seed": 1}
    parents = {"init": [home / "init"]}
    if job == "sft":
        parents["data"] = [home / "trajectories"]
    else:
        parents["problems"] = [home / "problems"]
        settings |= {"group_size": 8, "max_new_tokens": NEW_TOKENS}
    execute(load_stage("sft" if job == "sft" else "rl"), parents, settings, out, out.with_suffix(".html"))


def run_bare(job: str, steps: int, home: Path, out: Path) -> None:
    """The job as a TRL user writes it."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    common: dict[str, Any] = {
        "output_dir": str(out.with_suffix(".scratch")),
        "max_steps": steps,
        "per_device_train_batch_size": BATCH[job],
        "learning_rate": 1e-4,
        "seed": 1,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    file = home / ("trajectories.jsonl" if job == "sft" else "problems.jsonl")
    data = Dataset.from_list([json.loads(line) for line in file.read_text().splitlines()])
    trainer: Any
    if job == "sft":
        trainer = SFTTrainer(str(home / "model"), SFTConfig(**common), train_dataset=data)
    else:
        config = GRPOConfig(loss_type="grpo", num_generations=8, max_completion_length=NEW_TOKENS, **common)
        trainer = GRPOTrainer(str(home / "model"), solved, config, train_dataset=data)
    trainer.train()
    trainer.save_model(str(out))


def solved(completions: list[str], reference: list[str], **columns: Any) -> list[float]:
    """The reward that the verifier `exact` gives."""
    return [float(text.strip() == answer) for text, answer in zip(completions, reference, strict=True)]


SIDES: dict[str, Callable[[str, int, Path, Path], None]] = {"bare": run_bare, "stage": run_stage}


def measure(side: str, job: str, steps: int, home: Path, out: Path, threads: int) -> Cost:
    """Run one side in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--side", side, "--job", job, "--steps", str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    start, cpu = time.perf_counter(), cpu_seconds(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, "--home", str(home), "--out", str(out)], env=environment, capture_output=True, text=True
    )
    total, total_cpu = time.perf_counter() - start, cpu_seconds(resource.RUSAGE_CHILDREN) - cpu
    if done.returncode:
        raise RuntimeError(f"{side} {job} failed:\n{done.stderr}")
    loop, loop_cpu = json.loads(out.with_suffix(".loop").read_text())
    return Cost(loop, loop_cpu, total, total_cpu)


def compare(job: str, pairs: int, seconds: float, home: Path, threads: int) -> dict[str, Any]:
    """Measure pairs of runs; figures by name, one a pair."""
    trial = measure("bare", job, TRIAL_STEPS[job], home, home / f"{job}-trial", threads)
    steps = max(TRIAL_STEPS[job], round(TRIAL_STEPS[job] * seconds / trial.loop))
    runs: list[dict[str, Cost]] = []
    for number in range(pairs):
        outs = {side: home / f"{job}-{number}-{side}" for side in SIDES}
        runs.append({side: measure(side, job, steps, home, out, threads) for side, out in outs.items()})
        weights = {(out / "model.safetensors").read_bytes() for out in outs.values()}
        if len(weights) != 1:
            raise RuntimeError(f"{job}: the stage's weights differ from the bare script's")
        seen = ", ".join(f"{name} {value:.3f}" for name, value in figures(**runs[-1]).items())
        print(f"{job} {number + 1}/{pairs}: {seen} (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)
    pairwise = [figures(**run) for run in runs]
    return {
        "job": job,
        "steps": steps,
        "runs": [{side: asdict(cost) for side, cost in run.items()} for run in runs],
        "figures": {name: [pair[name] for pair in pairwise] for name in pairwise[0]},
    }


def figures(bare: Cost, stage: Cost) -> dict[str, float]:
    """What a pair says."""
    return {
        "loop": stage.loop / bare.loop,
        "loop, CPU": stage.loop_cpu / bare.loop_cpu,
        "added": (stage.total - stage.loop) - (bare.total - bare.loop),
        "added, CPU": (stage.total_cpu - stage.loop_cpu) - (bare.total_cpu - bare.loop_cpu),
    }


def show(result: dict[str, Any]) -> None:
    bare = statistics.median(run["bare"]["loop"] for run in result["runs"])
    print(f"{result['job']}: {result['steps']} steps, bare loop {bare:.1f} s, {len(result['runs'])} pairs")
    print(f"  {'':12} {'median':>8} {'min':>8} {'max':>8}   bar")
    for name, values in result["figures"].items():
        bar = BARS[name.partition(",")[0]]
        verdict = "met" if statistics.median(values) <= bar else "missed"
        numbers = " ".join(f"{value:8.3f}" for value in (statistics.median(values), min(values), max(values)))
        print(f"  {name:12} {numbers}   {bar} {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", choices=["sft", "grpo"], help="only this job")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0, help="of the bare training loop")
    parser.add_argument("--threads", type=int, default=1, help="of torch; more only on an idle machine")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    for hidden, kind in (("--side", str), ("--steps", int), ("--home", Path), ("--out", Path)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        with timed_loop(options.out.with_suffix(".loop")):
            SIDES[options.side](options.job, options.steps, options.home, options.out)
        return
    with tempfile.TemporaryDirectory() as directory:
        prepare(Path(directory))
        jobs = [options.job] if options.job else ["sft", "grpo"]
        results = [compare(job, options.pairs, options.seconds, Path(directory), options.threads) for job in jobs]
    for result in results:
        show(result)
    text = json.dumps({"load": os.getloadavg(), "threads": options.threads, "results": results})
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
