"""Object storage through a line that breaks: what was injected, and how ended what it befell.

    PYTHONPATH=. nice python benchmarks/faults.py [--faults 500] [--seed 0] [--only training]

A proxy breaks requests to versitygw on loopback by a seeded plan (tests/faults/proxy.py). Four things go through it:

lasting      each operation where every request meets the fault, so that the budget of its retries is spent
operations   each of the store's operations, one kind of fault at a time; what the server then holds and the disk got is
             compared with what was meant
checkpoints  a process claims, restores the newest checkpoint, adds files, commits and prunes, and so does the next one
training     SFT that is kept every other step and preempted on the way; the policy must be, bit for bit, that of a run
             that was left alone

right: done, and all is as it was meant. refused: an error of one line that says that a retry may help; everything is as
it was before, or whole. Whatever is neither, or lasts longer than the budget of its retries, ends the benchmark.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from posttrain.errors import Preempted, StorageError
from posttrain.storage.checkpoints import Checkpoints
from posttrain.storage.manifest import Identity
from posttrain.storage.retention import Retention
from posttrain.storage.store import open_store
from tests.faults.drill import OPERATIONS, Corrupt, Drill
from tests.faults.proxy import BODY, KINDS, SENDING, Plan, Proxy, proxy
from tests.s3 import BUCKET, Server, versitygw

TIMEOUT, PATIENCE = 1.0, 20.0
LIMIT = 120.0  # seconds after which an operation counts as hung
SHARES = {"lasting": 0.0, "operations": 0.6, "checkpoints": 0.3, "training": 1.0}

# Of one thing that went through the proxy: the kinds it met, and how it ended.
Outcome = tuple[Counter[str], str]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=int, default=500, help="in training; fewer in the others")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=SHARES)
    arguments = parser.parse_args()
    work: dict[str, Callable[[Server, Proxy, Path, Plan], Iterator[Outcome]]] = {
        "lasting": lasting,
        "operations": operations,
        "checkpoints": checkpoints,
        "training": training,
    }
    with tempfile.TemporaryDirectory() as home, versitygw(Path(home)) as server, proxy(server.url, Plan()) as broken:
        server.client.create_bucket(Bucket=BUCKET)
        options = {"POSTTRAIN_S3_TIMEOUT": str(TIMEOUT), "POSTTRAIN_S3_PATIENCE": str(PATIENCE)}
        os.environ |= server.environment | {"AWS_ENDPOINT_URL": broken.url} | options
        for name, share in SHARES.items():
            if arguments.only not in (None, name):
                continue
            scratch = Path(home) / name
            scratch.mkdir()
            plan = Plan(seed=arguments.seed, rate=0.25, stall=3 * TIMEOUT, drip=10e6)
            report(name, work[name](server, broken, scratch, plan), int(share * arguments.faults))


def lasting(server: Server, broken: Proxy, scratch: Path, plan: Plan) -> Iterator[Outcome]:
    """An operation of each sort with each kind of fault, and no request without."""
    os.environ["POSTTRAIN_S3_PATIENCE"] = "1"
    drill = Drill(open_store(f"s3://{BUCKET}/drill"), server, scratch, plan.seed)
    os.environ["POSTTRAIN_S3_PATIENCE"] = str(PATIENCE)
    for kind in KINDS:
        for operation in ("read", "get") if kind in BODY else ("create", "list", "put"):
            broken.follow(Plan(**vars(plan) | {"kinds": (kind,), "rate": 1.0}))
            ended = drill.run(operation, LIMIT)
            yield broken.counts(), ended


def operations(server: Server, broken: Proxy, scratch: Path, plan: Plan) -> Iterator[Outcome]:
    """Every operation, with every kind of fault that its requests can meet."""
    drill = Drill(open_store(f"s3://{BUCKET}/drill"), server, scratch, plan.seed)
    turn = 0
    while True:
        for kind in KINDS:
            for operation in ("read", "get") if kind in BODY else OPERATIONS:
                turn += 1
                rate = 0.6 if kind in BODY + SENDING else plan.rate  # fewer requests can meet these
                broken.follow(Plan(**vars(plan) | {"kinds": (kind,), "rate": rate, "seed": plan.seed + turn}))
                ended = drill.run(operation, LIMIT)
                yield broken.counts(), ended


def checkpoints(server: Server, broken: Proxy, scratch: Path, plan: Plan) -> Iterator[Outcome]:
    """One process after the other goes on from the newest checkpoint, of four files, one of which never changes."""
    identity = Identity(stage="sft", contract=1, parents={}, parameters={}, versions={})
    uri, chance = f"s3://{BUCKET}/checkpoints", Random(plan.seed)
    state = {f"{number}": chance.randbytes(number * 200_000) for number in range(4)}
    seen, step = -1, 0
    while True:
        step += 1
        broken.follow(Plan(**vars(plan) | {"seed": plan.seed + step}))
        after = state | {"1": chance.randbytes(200_000)}
        try:
            run = Checkpoints(open_store(uri), identity, Retention(last=2))
            run.claim()
            newest = run.newest()
            found = -1 if newest is None else newest.step
            if found != seen:
                raise Corrupt(f"went on from {found}; {seen} was the last")
            if newest is not None:
                run.restore(newest, scratch / f"{step}")
                got = {path.name: path.read_bytes() for path in (scratch / f"{step}").iterdir()}
                if got != state:
                    raise Corrupt("another state was restored than was kept")
            run.commit(step, run.add({name: [memoryview(content)] for name, content in after.items()}))
            run.prune()
            seen, state, ended = step, after, "right"
        except StorageError as error:
            ended = "refused"
            print(f"checkpoint {step}: {error}")
            whole = kept(server, identity)
            if whole == step:  # it was committed, and only what came then was refused
                seen, state = step, after
            elif whole != seen:
                raise Corrupt(f"{whole} is the newest whole checkpoint; {seen} was") from None
        yield broken.counts(), ended


def kept(server: Server, identity: Identity) -> int:
    """The step of the newest whole checkpoint, seen without the proxy; every one that is there must be whole."""
    broken = os.environ["AWS_ENDPOINT_URL"]
    os.environ["AWS_ENDPOINT_URL"] = server.url
    try:
        seen = Checkpoints(open_store(f"s3://{BUCKET}/checkpoints"), identity)
        for manifest in seen.manifests():
            if wrong := seen.verify(manifest):
                raise Corrupt(f"checkpoint {manifest.step} is committed, and {wrong}")
        newest = seen.newest()
        return -1 if newest is None else newest.step
    finally:
        os.environ["AWS_ENDPOINT_URL"] = broken


def training(server: Server, broken: Proxy, scratch: Path, plan: Plan) -> Iterator[Outcome]:
    """SFT that is kept every other step, told to end twice, and started again."""
    from tests.training.jobs import SUMS, answered, base, prepared, run, same_weights

    init, data = base(scratch / "init", "llama"), prepared(scratch / "data", answered(SUMS), "trajectories")
    settings: dict[str, Any] = {"max_steps": 12, "batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1}
    alone = run("sft", scratch / "alone", settings, init=init, data=data)
    number = 0
    while True:
        number += 1
        broken.follow(Plan(**vars(plan) | {"seed": plan.seed + number}))
        kept = settings | {"checkpoint_uri": f"s3://{BUCKET}/training-{number}", "checkpoint_steps": 2}
        ended, told = "right", {3, 7}
        for attempt in range(20):
            try:
                with ended_after(told):
                    made = run("sft", scratch / f"{number}-{attempt}", kept, init=init, data=data)
                break
            except Preempted:
                continue
            except StorageError as error:
                print(f"run {number}: {error}")
                ended = "refused, started again, right"
        else:
            raise Corrupt("training does not come to its end")
        if not same_weights(alone, made):
            raise Corrupt("another policy than that of a run which was left alone")
        yield broken.counts(), ended


@contextmanager
def ended_after(steps: set[int]) -> Iterator[None]:
    """Within it, training is told to end at these steps, each once."""
    from posttrain.training.callbacks import Listener

    def told(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        listen(self, args, state, control, **more)
        if state.global_step in steps:
            steps.remove(state.global_step)
            os.kill(os.getpid(), signal.SIGTERM)

    listen, Listener.on_step_end = Listener.on_step_end, told
    try:
        yield
    finally:
        Listener.on_step_end = listen


def report(name: str, outcomes: Iterator[Outcome], least: int) -> None:
    """Go on until `least` faults have been injected, and print how it ended for each kind."""
    began, things, table, endings = time.monotonic(), Counter[str](), defaultdict(Counter[str]), Counter[str]()
    for injected, ended in outcomes:
        if ended == "hung":
            raise Corrupt(f"{name}: longer than {LIMIT:.0f} s, with {dict(injected)}")
        things[ended] += 1
        for kind, count in injected.items():
            table[kind][ended] += count
            endings[ended] += count
        if 0 < least <= endings.total():
            break
    ways = sorted(endings, reverse=True)
    took = time.monotonic() - began
    print(f"\n{name}: {things.total()} ({dict(things)}), {endings.total()} faults, {took:.0f} s\n")
    print("| kind | injected | " + " | ".join(ways) + " |\n|---|" + "---:|" * (1 + len(ways)))
    for kind in [kind for kind in KINDS if kind in table]:
        print(f"| {kind} | {table[kind].total()} | " + " | ".join(str(table[kind][way]) for way in ways) + " |")
    print(f"| all | {endings.total()} | " + " | ".join(str(endings[way]) for way in ways) + " |", flush=True)


if __name__ == "__main__":
    main()
