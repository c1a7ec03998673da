"""How fast files go to and from an S3 store, beside `s5cmd` and beside one file after another by boto3.

    PYTHONPATH=. python benchmarks/transfer.py [--rounds 5] [--files 8] [--mib 256] [--only bare|shaped]

bare      versitygw on loopback: the CPU is the limit, and the server has its share of it
shaped    the same behind a proxy of 20 ms a request and 25 MB/s a connection, as a distant store feels

The sides run in turn, each in a process of its own, so that a busy machine slows all alike; ratios are taken within a
round. Ours and boto3's are timed without Python's start and imports, s5cmd from start to end. Each side finds memory
that was in use just before: the host of a virtual machine may take what is free for two seconds, and to get it back
costs more processor time than the transfer, which only a side that starts slowly would pay. A file that arrives with
other bytes is an error.

    × s5cmd      our speed over s5cmd's, ≥ 1.0
    × serial     our speed over that of one file after another (shaped only), ≥ 4
    MiB          peak memory of our process, ≤ 256
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from posttrain.artifacts.digests import digest_files
from tests.faults.proxy import shaped
from tests.s3 import BUCKET, Server, versitygw

SIDES = {"bare": ("ours", "s5cmd"), "shaped": ("ours", "s5cmd", "serial")}
WAYS = ("up", "down")
Runs = dict[tuple[str, str], list[tuple[float, float, float]]]  # (side, way) → (seconds, of processor, peak MiB) each


def ours(way: str, files: dict[str, Path]) -> None:
    """The library's store."""
    from posttrain.storage.store import open_store

    store = open_store(f"s3://{BUCKET}/files")
    if way == "up":
        store.put(files)
    else:
        store.get(files)


def serial(way: str, files: dict[str, Path]) -> None:
    """One request after another, by boto3."""
    import boto3

    client = boto3.client("s3")
    for name, path in files.items():
        if way == "up":
            with path.open("rb") as file:
                client.put_object(Bucket=BUCKET, Key=f"files/{name}", Body=file)
        else:
            body = client.get_object(Bucket=BUCKET, Key=f"files/{name}")["Body"]
            with path.open("wb") as file:
                shutil.copyfileobj(body, file, 2**20)


def work(side: str, way: str, directory: Path, names: list[str]) -> None:
    """Run in a process of its own, which prints seconds and peak memory."""
    import boto3  # noqa: F401

    import posttrain.storage.s3  # noqa: F401

    chosen: dict[str, Callable[[str, dict[str, Path]], None]] = {"ours": ours, "serial": serial}
    touch_memory(directory.parent, names)
    start, busy = time.perf_counter(), time.process_time()
    chosen[side](way, {name: directory / name for name in names})
    seconds, processor = time.perf_counter() - start, time.process_time() - busy
    # Not `ru_maxrss`: a process inherits its parent's.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps([seconds, processor, int(status["VmHWM"].split()[0]) / 1024]))


def touch_memory(home: Path, names: list[str]) -> None:
    """Fill as much of the page cache as the transfer will, and free it."""
    with (home / "touched").open("wb") as touched:
        for name in names:
            with (home / "sent" / name).open("rb") as file:
                shutil.copyfileobj(file, touched, 2**20)
    (home / "touched").unlink()


def timed(side: str, way: str, directory: Path, names: list[str], server: Server) -> tuple[float, float, float]:
    """Seconds, seconds of the processor, peak MiB."""
    environment = {**os.environ, **server.environment}
    if side != "s5cmd":
        command = [sys.executable, __file__, "--work", side, way, str(directory), *names]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        seconds, processor, peak = json.loads(done.stdout)
        return seconds, processor, peak
    program = str(Path(sys.executable).parent / "s5cmd")
    ends = [f"{directory}/*", f"s3://{BUCKET}/files/"] if way == "up" else [f"s3://{BUCKET}/files/*", f"{directory}/"]
    command = [program, "--endpoint-url", server.url, "cp", *ends]
    touch_memory(directory.parent, names)
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"s5cmd ended with {process.returncode}")
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def rounds(server: Server, sides: tuple[str, ...], home: Path, count: int) -> Runs:
    """Every side up and down in turn, `count` times, with the bytes compared."""
    sent, got, names = home / "sent", home / "got", sorted(path.name for path in (home / "sent").iterdir())
    digests = digest_files([sent / name for name in names])
    runs: Runs = {(side, way): [] for side in sides for way in WAYS}
    for turn in range(count):
        for way in WAYS:
            for side in sides[turn % len(sides) :] + sides[: turn % len(sides)]:
                chosen = names[:1] if side == "serial" else names  # one file of many goes as fast as each of them
                got.mkdir()
                if way == "up":
                    for name in chosen:
                        server.client.delete_object(Bucket=BUCKET, Key=f"files/{name}")
                seconds, processor, peak = timed(side, way, sent if way == "up" else got, chosen, server)
                runs[side, way].append((seconds * len(names) / len(chosen), processor, peak))
                if way == "down" and digest_files([got / name for name in chosen]) != digests[: len(chosen)]:
                    raise RuntimeError(f"{side}: other bytes arrived")
                shutil.rmtree(got)
    return runs


def report(kind: str, runs: Runs, total: float) -> None:
    for (side, way), measured in runs.items():
        speeds = sorted(total / seconds / 1e9 for seconds, _, _ in measured)
        processor, peak = (max(run[place] for run in measured) for place in (1, 2))
        figures = f"{speeds[0]:.2f} {statistics.median(speeds):.2f} {speeds[-1]:.2f}"
        print(f"{kind:<7} {way:<5} {side:<7} GB/s {figures}   processor {processor:.1f} s   peak {peak:.0f} MiB")
    for other in dict.fromkeys(side for side, _ in runs if side != "ours"):
        for way in WAYS:
            pairs = zip(runs[other, way], runs["ours", way], strict=True)
            ratios = sorted(theirs[0] / our[0] for theirs, our in pairs)
            figures = f"{statistics.median(ratios):.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f})"
            print(f"{kind:<7} {way:<5} ours × {other}: {figures}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--only", choices=SIDES)
    parser.add_argument("--directory", type=Path, help="on the disk in question")
    parser.add_argument("--work", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        side, way, directory, *names = given.work
        work(side, way, Path(directory), names)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # server and files must not stay behind
    with tempfile.TemporaryDirectory(dir=given.directory) as scratch:
        home = Path(scratch)
        (home / "sent").mkdir()
        for number in range(given.files):
            with (home / "sent" / f"file{number}").open("wb") as file:
                for _ in range(given.mib):
                    file.write(os.urandom(2**20))
        with versitygw(home) as server:
            server.client.create_bucket(Bucket=BUCKET)
            for kind in [given.only] if given.only else SIDES:
                with shaped(server.url) if kind == "shaped" else nullcontext(server) as reached:
                    runs = rounds(Server(reached.url), SIDES[kind], home, given.rounds)
                report(kind, runs, given.files * given.mib * 2**20)


if __name__ == "__main__":
    main()
