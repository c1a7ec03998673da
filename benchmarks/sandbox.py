"""Verdicts of `code` per second on trivial programs, where the sandbox is all the cost.

    PYTHONPATH=. python benchmarks/sandbox.py [--seconds 5]

A case is one process, statements are two: the program and its tests. Workers are threads of one process, which share a
zygote. The load is printed because the figures mean little on a machine that is busy with something else.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from typing import Any

from posttrain.verifiers import sandbox, verify

PROBLEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "case": ("print(sum(map(int, input().split())))", {"tests": [{"input": "2 3\n", "output": "5\n"}]}),
    "statements": ("def add(a, b):\n    return a + b", {"tests": ["assert add(2, 3) == 5", "assert add(-1, 1) == 0"]}),
}
WORKERS = (1, 2)


def verdicts(completion: str, reference: dict[str, Any], workers: int, seconds: float) -> float:
    """Verdicts per second, all of them right."""
    counts = [0] * workers
    start = time.monotonic()

    def work(worker: int) -> None:
        while time.monotonic() < start + seconds:
            assert verify(completion, "code", reference).score == 1
            counts[worker] += 1

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of every figure")
    seconds = parser.parse_args().seconds
    print(f"wall {sandbox.wall()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name, (completion, reference) in PROBLEMS.items():
        for workers in WORKERS:
            rate = verdicts(completion, reference, workers, seconds)
            print(f"{name:10}  {workers} worker{'s' * (workers > 1)}  {rate:6.0f} verdicts/s")


if __name__ == "__main__":
    main()
