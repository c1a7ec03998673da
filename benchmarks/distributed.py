"""Does a stage in two processes do what it does in one? On CPU, with gloo: curves, counts and weights side by side.

    PYTHONPATH=. python benchmarks/distributed.py [--only WORD …]

DDP runs as it is. Accelerate shards (FSDP, ZeRO) over accelerators only, so here two CPU processes pose as
accelerators: the sharding, its collectives and our gathering of the weights are the real ones, NCCL is not.

Processes sample with random numbers of their own. Jobs that sample take the likeliest token, so that both runs train
on the same rollouts; of those that really sample, only what must hold is asked. In all, the processes must end, with
the same weights (FSDP, ZeRO-3: with parts of them), and count the same, or what adds up.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

STEPS = {"max_steps": 4, "learning_rate": 1e-2, "logging_steps": 1, "seed": 3, "batch_size": 8}
LORA = {"lora_rank": 4, "lora_alpha": 8}
GREEDY = {"max_new_tokens": 4, "trainer_args": {"top_k": 1}}
LOGITS = {"method": "logit_distillation", "hard_weight": 0.2, "max_length": 64}
ROUTED = GREEDY | {"routes": {"left": 1, "right": 2}}
SELF = GREEDY | {"method": "self_distillation", "teacher_update": 0.5}
HELD_OUT = {"held_out": 0.5}  # leaves whole batches: processes would fill up the last one with rows they had before
ANCHORS = {"anchor_tokens": 2, "anchor_samples": 4}
# Greedy groups are all alike: prompts are compared with one another, by what random answers differ in.
ALIKE = GREEDY | {
    "method": "reinforce_pp",
    "kl": 0.05,
    "group_size": 2,
    "batch_size": 16,
    "format_pattern": ".*[a-mA-M]",
}
ALIKE = ALIKE | {"rewards": {"format": 1.0, "verifier": 0.5}, "learning_rate": 1e-3}
TERMS = ALIKE | {"rewards": {"reward_model": 1.0, "process_reward_model": 1.0, "format": 0.5}}
SAMPLED = {"max_new_tokens": 1, "group_size": 4, "batch_size": 16}
ROOT = Path(__file__).parent.parent
_SPREAD = "BENCHMARK_SPREADS"  # for the processes of a job: whether each should hold a part of the model only
_PATIENCE = 200  # seconds, after which processes wait for one another


@dataclass(frozen=True)
class Job:
    """A stage, how its processes share the model, and parents beside or in place of the usual ones."""

    stage: str
    strategy: str = "ddp"
    settings: dict[str, Any] = field(default_factory=dict)
    nodes: int = 1
    parents: dict[str, str] = field(default_factory=dict)
    what: str = ""  # what is special about it, for the table
    exact: bool = True  # or rollouts differ from process to process

    @property
    def name(self) -> str:
        """As in the table."""
        lora = "LoRA" if "lora_rank" in self.settings else ""
        nodes = f"{self.nodes} nodes" if self.nodes > 1 else ""
        words = [self.stage, str(self.settings.get("method", "")), lora, self.what, self.strategy, nodes]
        return " ".join(filter(None, words))

    @property
    def takes(self) -> dict[str, str]:
        """The names of its parents by role, several ones divided by spaces."""
        return _TAKES.get(f"{self.stage} {self.settings.get('method')}", _TAKES[self.stage]) | self.parents


def _jobs() -> list[Job]:
    sharded = ("fsdp", "zero2", "zero3")
    kept = {"anchors": "problems"}
    terms = {"reward_model": "judge other_judge", "process_reward_model": "steps_judge"}
    return [
        Job("sft"),
        Job("sft", settings=LORA),
        Job("sft", nodes=2),
        *(Job("sft", strategy) for strategy in sharded),
        *(Job("sft", strategy, LORA) for strategy in sharded),
        *(Job("sft", settings={"method": method}) for method in ("anchored", "asft", "proximal")),
        *(Job("sft", strategy, {"method": "anchored"}) for strategy in sharded),
        Job("sft", "zero2", {"method": "proximal"}),
        *(Job("sft", strategy, ANCHORS, parents=kept, what="with anchors") for strategy in ("ddp", "fsdp", "zero3")),
        Job("sft", "ddp", ANCHORS, 2, kept, "with anchors"),
        Job("sft", "zero3", {"packing": True}, what="packed"),
        Job("preference"),
        *(Job("preference", strategy) for strategy in sharded),
        Job("preference", settings={"method": "simpo"}),
        Job("preference", settings={"method": "kto"}, exact=False),
        Job("reward_model", settings=HELD_OUT),
        Job("reward_model", "ddp", HELD_OUT, 2),
        *(Job("reward_model", strategy, HELD_OUT) for strategy in ("fsdp", "zero3")),
        Job("process_reward_model", settings=HELD_OUT),
        *(Job("process_reward_model", strategy, HELD_OUT) for strategy in ("fsdp", "zero3")),
        Job("distill", settings=GREEDY),
        *(Job("distill", strategy, GREEDY) for strategy in ("fsdp", "zero3")),
        Job("distill", settings=LOGITS),
        *(Job("distill", strategy, LOGITS) for strategy in ("fsdp", "zero3")),
        Job("distill", settings=ROUTED, parents={"teacher": "teacher other_teacher"}, what="two teachers"),
        Job("distill", settings=GREEDY | {"method": "gkd"}),
        Job("distill", settings=SELF),
        Job("distill", "fsdp", SELF | {"teacher_update": 0.0}),
        Job("rl", settings=ALIKE),
        Job("rl", settings=ALIKE, parents={"hints": "hints"}, what="hinted"),
        Job("rl", settings=ALIKE | {"dynamic_sampling": "always", "max_resampling": 1}, what="dynamic"),
        *(Job("rl", strategy, TERMS, parents=terms, what="all terms") for strategy in ("ddp", "fsdp", "zero3")),
        Job("rl", settings=SAMPLED, exact=False),
        Job("rl", "fsdp", SAMPLED, exact=False),
        Job(
            "rl",
            settings=SAMPLED | {"dynamic_sampling": "always"},
            parents={"hints": "demos"},
            what="hinted dynamic",
            exact=False,
        ),
        *(
            Job(
                "rl",
                s,
                SAMPLED | {"max_new_tokens": 48},
                parents={"init": "wordy"},
                what="of many lengths",
                exact=False,
            )
            for s in ("fsdp", "zero3")
        ),
    ]


def main() -> None:
    """Run every job in one process and in two, and print the table."""
    from posttrain.training import launch
    from tests.training.posing import pose_as_accelerators

    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=[""], help="jobs whose name has one of these words")
    words = parser.parse_args().only
    jobs = [job for job in _jobs() if any(word in job.name for word in words)]
    pose_as_accelerators()
    asserting_how_spread()
    launch.COMMAND = (__file__, "rank")
    signal.signal(signal.SIGALRM, _too_long)
    print(f"{'job':46} {'loss apart':>10} {'weights apart / moved':>21} {'rows':>10} {'seconds':>10}  most apart")
    with tempfile.TemporaryDirectory() as folder:
        parents = made(Path(folder))
        for number, job in enumerate(jobs):
            row(job, parents, Path(folder) / str(number))


def _too_long(number: int, frame: Any) -> None:
    raise TimeoutError(f"the processes have not ended after {_PATIENCE} s")


def made(home: Path) -> dict[str, Path]:
    """Parents of tiny stages, by the name under which the stages take them."""
    from tests.training.jobs import SUMS, answered, base, prepared, run

    sides = ["left", "right"] * len(SUMS)
    digits = [
        {"prompt": row["prompt"], "verifier": "exact", "reference": [*"0123456789"], "slice": side}
        for row, side in zip(SUMS, sides, strict=False)
    ]
    said = [{"prompt": row["prompt"], "completion": f"{row['reference']} it is"} for row in SUMS]
    pairs = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": "wrong!"} for row in answered(SUMS)]
    # Solutions of one to three steps, so that processes have unlike numbers of them.
    steps = [
        {"prompt": row["prompt"], "completions": [*"17a"[: 1 + n % 3]], "labels": [1.0, 1.0, 0.0][: 1 + n % 3]}
        for n, row in enumerate(SUMS)
    ]
    # As most small models: input and output embeddings are one tensor, to be gathered and stored once.
    parents = {name: base(home / name, "llama", seed=n, tie_word_embeddings=True) for n, name in enumerate(_POLICIES)}
    parents |= {
        "wordy": base(home / "wordy", "llama", characters="0123456789+=", initializer_range=0.02),
        "demos": prepared(home / "demos", answered(SUMS), "trajectories"),
        "hints": prepared(home / "hints", said, "trajectories"),
        "pairs": prepared(home / "pairs", pairs, "trajectories"),
        "steps": prepared(home / "steps", steps, "trajectories"),
        "problems": prepared(home / "problems", digits, "problems"),
    }
    for n, name in enumerate(("judge", "other_judge")):
        parents[name] = run(
            "reward_model", home / name, STEPS | {"seed": n}, init=parents["init"], data=parents["pairs"]
        )
    given = {"init": parents["init"], "data": parents["steps"]}
    parents["steps_judge"] = run("process_reward_model", home / "steps_judge", STEPS, **given)
    given = {"teacher": parents["teacher"], "data": parents["hints"]}
    parents["stored"] = run("teacher_logits", home / "stored", {"max_length": 64, "k": 8}, **given)
    return parents


_POLICIES = ("init", "teacher", "other_teacher")
_TAKES = {
    "sft": {"init": "init", "data": "demos"},
    "preference": {"init": "init", "data": "pairs"},
    "reward_model": {"init": "init", "data": "pairs"},
    "process_reward_model": {"init": "init", "data": "steps"},
    "distill": {"init": "init", "teacher": "teacher", "problems": "problems"},
    "distill logit_distillation": {"init": "init", "data": "stored"},
    "distill gkd": {"init": "init", "teacher": "teacher", "data": "demos"},
    "distill self_distillation": {"init": "init", "data": "hints"},
    "rl": {"init": "init", "problems": "problems"},
}


def row(job: Job, parents: dict[str, Path], home: Path) -> None:
    """One line of the table, and what differs that should not."""
    from tests.training.jobs import record, run, weights

    given = {role: [parents[name] for name in names.split()] for role, names in job.takes.items()}
    settings = STEPS | job.settings
    os.environ[_SPREAD] = str(job.strategy in ("fsdp", "zero3"))
    halved = settings | {"batch_size": settings["batch_size"] // 2, "strategy": job.strategy}
    alone, both = home / "alone", home / "both"
    try:
        signal.alarm(_PATIENCE)
        started = time.monotonic()
        run(job.stage, alone, settings, **given)
        between = time.monotonic()
        if job.nodes > 1:
            on_nodes(job, given, halved, both)
        else:
            run(job.stage, both, halved | {"processes": 2}, **given)
    except Exception as error:
        print(f"{job.name:46} {type(error).__name__}: {str(error).splitlines()[0][:150]}", flush=True)
        return
    finally:
        signal.alarm(0)
    seconds = f"{between - started:.0f} and {time.monotonic() - between:.0f}"
    one, two = record(alone), record(both)
    before, mine, theirs = weights(given["init"][0]), weights(alone), weights(both)
    assert mine.keys() == theirs.keys()
    moved = max(float((mine[name] - before[name]).abs().max()) for name in mine.keys() & before.keys())
    apart = max(float((mine[name] - theirs[name].to(mine[name].dtype)).abs().max()) for name in mine)
    assert one.trace is not None
    assert two.trace is not None
    rows = f"{one.trace.rows} and {two.trace.rows}"
    loss, most = distance(one, two, ["loss"]), distance(one, two, [name for name in one.curves if name != "loss"])
    figures = f"{loss[0]:10.1e} {apart:10.1e} / {moved:8.1e} {rows:>10} {seconds:>10}"
    print(f"{job.name:46} {figures}  {f'{most[1]} {most[0]:.1e}' if job.exact else '-'}", flush=True)
    for complaint in complaints(one, two, job.exact):
        print(f"{'':46} {complaint}", flush=True)


def distance(one: Any, two: Any, names: list[str]) -> tuple[float, str]:
    """The largest relative difference between two runs on these curves, and the curve's name."""
    return max(
        (
            max(
                abs(a - b) / max(1, abs(a)) for (_, a), (_, b) in zip(one.curves[name], two.curves[name], strict=False)
            ),
            name,
        )
        for name in names
        if name in two.curves
    )


def complaints(one: Any, two: Any, exact: bool) -> list[str]:
    """What is not as it must be, in two records of a stage."""
    found = []
    if one.curves.keys() != two.curves.keys():
        found.append(f"curves of one of them only: {sorted(one.curves.keys() ^ two.curves.keys())}")
    if one.trace != two.trace:
        found.append(f"{one.trace} and {two.trace}")
    for name in sorted(one.counts.keys() | two.counts.keys()):
        if (exact or not name.endswith("rollouts")) and one.counts.get(name) != two.counts.get(name):
            found.append(f"{name}: {one.counts.get(name)} and {two.counts.get(name)}")
    for name in sorted(one.metrics.keys() - one.curves.keys()) if exact else ():
        if abs(one.metrics[name] - two.metrics.get(name, float("nan"))) > 1e-3:
            found.append(f"{name}: {one.metrics[name]} and {two.metrics.get(name)}")
    for made_ in (one, two):
        trained, discarded = made_.trace.rows, made_.counts.get("discarded_rollouts", 0)
        if made_.counts.get("rollouts", trained + discarded) != trained + discarded:
            found.append(f"rollouts that nobody trained on or discarded: {made_.counts}, {trained} trained on")
    return found


def on_nodes(job: Job, parents: dict[str, list[Path]], settings: dict[str, Any], out: Path) -> None:
    """The job by `posttrain worker` on so many nodes, all of them here, one process each."""
    from posttrain.training.trainjob import worker_arguments

    uris = {role: [str(path) for path in paths] for role, paths in parents.items()}
    command = [sys.executable, "-m", "posttrain", "worker"]
    command += worker_arguments(job.stage, uris, settings | {"processes": 1}, str(out))
    network = {"PET_NNODES": str(job.nodes), "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": "29591"}
    nodes = [
        subprocess.Popen(command, cwd=ROOT, env=os.environ | network | {"PET_NODE_RANK": str(rank)})
        for rank in range(job.nodes)
    ]
    if any([node.wait(300) for node in nodes]):
        raise RuntimeError("a node failed")


def asserting_how_spread() -> None:
    """Have each process assert, when it writes, that the model is spread as the job's strategy says."""
    from posttrain.training import policy, ranks

    spread = policy.is_spread

    def as_asked(model: Any) -> bool:
        """Whether the model is spread, as its strategy says; one that is not must be the same in every process."""
        found = spread(model)
        if "RANK" in os.environ:
            assert str(found) == os.environ[_SPREAD]
            assert found or len(ranks.summed(Counter([_digest(model)]))) == 1, "processes hold different weights"
        return found

    policy.is_spread = as_asked


def _digest(model: Any) -> str:
    tensors = (tensor.detach().float().numpy().tobytes() for tensor in model.state_dict().values())
    return hashlib.sha256(b"".join(tensors)).hexdigest()


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        from posttrain.cli.worker import run_rank
        from tests.training.posing import pose_as_accelerators

        pose_as_accelerators()
        asserting_how_spread()
        run_rank(Path(sys.argv[2]))
    else:
        main()
