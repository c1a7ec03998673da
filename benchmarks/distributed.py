"""Does a stage in two processes do what it does in one? On CPU, with gloo: losses and weights side by side.

    PYTHONPATH=. python benchmarks/distributed.py [--only WORD]

DDP runs as it is. Accelerate shards (FSDP, ZeRO) over accelerators only, so here two CPU processes pose as
accelerators: the sharding, its collectives and our gathering of the weights are the real ones, NCCL is not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

STEPS = {"max_steps": 4, "learning_rate": 1e-2, "logging_steps": 1, "seed": 3, "batch_size": 8}
LORA = {"lora_rank": 4, "lora_alpha": 8}
GREEDY = {"max_new_tokens": 4, "trainer_args": {"top_k": 1}}  # sampled rollouts differ from process to process
RL = {"max_new_tokens": 1, "group_size": 4, "batch_size": 16}
ROOT = Path(__file__).parent.parent
_SPREAD = "BENCHMARK_SPREADS"  # for the processes of a job: whether each should hold a part of the model only


@dataclass(frozen=True)
class Job:
    """A stage, and how its processes share the model."""

    stage: str
    strategy: str = "ddp"
    settings: dict[str, Any] = field(default_factory=dict)
    nodes: int = 1

    @property
    def name(self) -> str:
        """As in the table."""
        what = " ".join(map(str, self.settings.get("method", "").split()))
        lora = " LoRA" if "lora_rank" in self.settings else ""
        nodes = f", {self.nodes} nodes" if self.nodes > 1 else ""
        return f"{self.stage} {what}{lora} {self.strategy}{nodes}".replace("  ", " ")


JOBS = [
    Job("sft"),
    Job("sft", settings=LORA),
    Job("preference"),
    Job("reward_model"),
    Job("distill", settings=GREEDY),
    Job("rl", settings=RL),
    Job("sft", nodes=2),
    *(Job(stage, strategy) for strategy in ("fsdp", "zero2", "zero3") for stage in ("sft", "preference")),
    *(Job("sft", strategy, LORA) for strategy in ("fsdp", "zero2", "zero3")),
    Job("distill", "fsdp", GREEDY),
    Job("rl", "fsdp", RL),
    Job("reward_model", "fsdp"),
]


def main() -> None:
    """Run every job in one process and in two, and print the table."""
    from posttrain.training import launch

    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="jobs whose name has this word")
    jobs = [job for job in JOBS if parser.parse_args().only in job.name]
    pose_as_accelerators()
    launch.COMMAND = (__file__, "rank")
    print(f"{'job':34} {'loss apart':>11} {'weights apart / moved':>22} {'rows':>11} {'seconds':>14}")
    with tempfile.TemporaryDirectory() as folder:
        parents = made(Path(folder))
        for number, job in enumerate(jobs):
            row(job, parents, Path(folder) / str(number))


def made(home: Path) -> dict[str, Path]:
    """Parents of tiny stages, by the name under which the stages take them."""
    from tests.training.jobs import SUMS, answered, base, prepared

    digits = [{"prompt": row["prompt"], "verifier": "exact", "reference": [*"0123456789"]} for row in SUMS]
    pairs = [row | {"chosen": row["completion"], "rejected": row["completion"] + "!"} for row in answered(SUMS)]
    pairs = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in pairs]
    return {
        # As most small models: input and output embeddings are one tensor, to be gathered and stored once.
        "init": base(home / "init", "llama", tie_word_embeddings=True),
        "teacher": base(home / "teacher", "llama", seed=1),
        "demos": prepared(home / "demos", answered(SUMS), "trajectories"),
        "pairs": prepared(home / "pairs", pairs, "trajectories"),
        "problems": prepared(home / "problems", digits, "problems"),
    }


_TAKES = {
    "sft": {"init": "init", "data": "demos"},
    "preference": {"init": "init", "data": "pairs"},
    "reward_model": {"init": "init", "data": "pairs"},
    "distill": {"init": "init", "teacher": "teacher", "problems": "problems"},
    "rl": {"init": "init", "problems": "problems"},
}


def row(job: Job, parents: dict[str, Path], home: Path) -> None:
    """One line of the table."""
    from tests.training.jobs import record, run, weights

    given = {role: parents[name] for role, name in _TAKES[job.stage].items()}
    settings = STEPS | job.settings
    os.environ[_SPREAD] = str(job.strategy in ("fsdp", "zero3"))
    halved = settings | {"batch_size": settings["batch_size"] // 2, "strategy": job.strategy}
    started = time.monotonic()
    alone = run(job.stage, home / "alone", settings, **given)
    between = time.monotonic()
    both = home / "both"
    try:
        if job.nodes > 1:
            on_nodes(job, given, halved, both)
        else:
            run(job.stage, both, halved | {"processes": 2}, **given)
    except Exception as error:
        print(f"{job.name:34} {type(error).__name__}: {str(error).splitlines()[0][:150]}", flush=True)
        return
    seconds = f"{between - started:.0f} and {time.monotonic() - between:.0f}"
    one, two = record(alone), record(both)
    loss = max(abs(a - b) for (_, a), (_, b) in zip(one.curves["loss"], two.curves["loss"], strict=True))
    before, mine, theirs = weights(parents["init"]), weights(alone), weights(both)
    assert mine.keys() == theirs.keys()
    moved = max(float((mine[name] - before[name]).abs().max()) for name in mine.keys() & before.keys())
    apart = max(float((mine[name] - theirs[name].to(mine[name].dtype)).abs().max()) for name in mine)
    assert one.trace is not None
    assert two.trace is not None
    rows = f"{one.trace.rows} and {two.trace.rows}"
    print(f"{job.name:34} {loss:11.1e} {apart:11.1e} / {moved:8.1e} {rows:>11} {seconds:>14}", flush=True)
    if one.counts != two.counts or one.trace != two.trace:
        print(f"{'':34} {one.counts} and {two.counts}", flush=True)


def on_nodes(job: Job, parents: dict[str, Path], settings: dict[str, Any], out: Path) -> None:
    """The job by `posttrain worker` on so many nodes, all of them here, one process each."""
    from posttrain.training.trainjob import worker_arguments

    uris = {role: [str(path)] for role, path in parents.items()}
    command = [sys.executable, "-m", "posttrain", "worker"]
    command += worker_arguments(job.stage, uris, settings | {"processes": 1}, str(out))
    network = {"PET_NNODES": str(job.nodes), "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": "29591"}
    nodes = [
        subprocess.Popen(command, cwd=ROOT, env=os.environ | network | {"PET_NODE_RANK": str(rank)})
        for rank in range(job.nodes)
    ]
    if any([node.wait(300) for node in nodes]):
        raise RuntimeError("a node failed")


def pose_as_accelerators() -> None:
    """Have Accelerate take this process's CPU for an accelerator when the strategy is one that shards."""
    import torch
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    from posttrain.training import arguments, hardware, launch, policy

    spread = policy.is_spread

    def as_asked(model: Any) -> bool:
        """Whether the model is spread, as its strategy says it must be when two processes hold it."""
        found = spread(model)
        assert "RANK" not in os.environ or str(found) == os.environ[_SPREAD]
        return found

    policy.is_spread = as_asked
    plain, backend, device = hardware.hardware_arguments, PartialState._prepare_backend, PartialState.set_device

    def posing(settings: Any) -> dict[str, Any]:
        return plain(settings) | ({"use_cpu": False} if settings.strategy != "ddp" else {})

    def prepare_backend(self: Any, cpu: bool = False, *more: Any, **named: Any) -> Any:
        if cpu or "LOCAL_RANK" not in os.environ:
            return backend(self, cpu, *more, **named)
        return "gloo", DistributedType.MULTI_GPU

    def set_device(self: Any) -> None:
        if self.distributed_type is DistributedType.MULTI_GPU or self.distributed_type is DistributedType.DEEPSPEED:
            self.device = torch.device("cpu")
        else:
            device(self)

    PartialState._prepare_backend, PartialState.set_device = prepare_backend, set_device
    arguments.hardware_arguments = posing
    arguments.refuse_impossible = launch.refuse_impossible = lambda settings: None


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        from posttrain.cli.worker import run_rank

        pose_as_accelerators()
        run_rank(Path(sys.argv[2]))
    else:
        main()
