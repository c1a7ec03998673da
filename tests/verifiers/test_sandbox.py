"""The sandbox: what hostile programs cannot do behind each wall, that they leave nothing, and what honest ones can."""

import contextlib
import ctypes
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from posttrain.verifiers import sandbox
from posttrain.verifiers.jail import syscalls
from posttrain.verifiers.running import Limits, SandboxError
from posttrain.verifiers.worker import NotStarted
from tests.verifiers import exhausting, honest, hostile, restricted

pytestmark = [
    pytest.mark.skipif(platform.system() != "Linux", reason="the sandbox is Linux's"),
    pytest.mark.xdist_group("sandbox"),
]

ROOM = Limits(cpu_s=5, wall_s=30, memory_mib=128)
BRIEF = Limits(cpu_s=0.3, wall_s=0.5, memory_mib=128)
SECRET = "correct horse battery staple"


def descendants(pid):
    """Every process below one; orphans come to the tests, see `adopt`."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found + [one for child in found for one in descendants(child)]


def settled(expected):
    """Wait until no process is left but those expected; what is left otherwise."""
    deadline = time.monotonic() + 30
    while (left := set(descendants(os.getpid())) - expected) and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        time.sleep(0.01)
    return left


@pytest.fixture(scope="module", autouse=True)
def adopt():
    """Have orphans come to this process, where they can be seen."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    yield
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


@contextlib.contextmanager
def behind(wall):
    """A sandbox with the wall named, if this machine offers it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(sandbox.VARIABLE, wall)
        patch.setenv("API_TOKEN", SECRET)
        patch.setattr(sandbox, "_shared", sandbox._Shared())
        try:
            sandbox.wall()
        except NotStarted as error:
            pytest.skip(str(error))
        yield
        sandbox._shared.close()


@pytest.fixture(scope="module", params=sandbox.WALLS)
def wall(request):
    with behind(request.param):
        yield request.param


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """Things a program must not reach: a file, a directory, a server."""
    place = tmp_path_factory.mktemp("outside")
    place.chmod(0o777)
    (place / "secret").write_text(SECRET)
    (place / "secret").chmod(0o666)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield place, server


def judged(program, limits, outside):
    """Run a hostile program, and check that it harmed nothing and nobody."""
    place, server = outside
    known = {
        "SECRET_FILE": str(place / "secret"),
        "PORT": server.getsockname()[1],
        "PARENT": os.getpid(),
        "OUTSIDE": str(place),
    }
    before = set(descendants(os.getpid()))
    zygote = sandbox._shared.current
    ended = sandbox.run("\n".join(f"{k} = {v!r}" for k, v in known.items()) + hostile.PREAMBLE + program, limits=limits)
    assert settled(before) == set()
    for text in (ended.stdout, ended.stderr):
        assert b"ESCAPED" not in text, text
        assert SECRET.encode() not in text
    assert [path.name for path in place.iterdir()] == ["secret"]
    assert (place / "secret").read_text() == SECRET
    with pytest.raises(BlockingIOError):
        server.accept()
    assert ended.peak_mib <= 1.5 * limits.memory_mib
    assert sandbox.run("print(6 * 7)", limits=ROOM).stdout == b"42\n"
    assert sandbox._shared.current is zygote and zygote.alive()
    return ended


def every(*groups):
    return [pytest.param(program, id=name) for group in groups for name, program in group.items()]


@pytest.mark.parametrize("program", every(hostile.PROCESSES, hostile.FILES, hostile.KERNEL, hostile.NETWORK))
def test_nothing_outside_is_reached(wall, outside, program):
    judged(program, ROOM, outside)


@pytest.mark.parametrize("program", every(exhausting.MEMORY))
def test_memory_and_files_are_bounded(wall, outside, program):
    # Without memory Python may wait for ever, for a thread that never began: ended, too.
    ended = judged(program, Limits(cpu_s=5, wall_s=5, memory_mib=128), outside)
    assert ended.status != 0


@pytest.mark.parametrize("program", every(exhausting.ENDLESS))
def test_what_never_ends_is_ended(wall, outside, program):
    ended = judged(program, BRIEF, outside)
    assert (ended.reason, ended.status) == ("time", -signal.SIGKILL)


@pytest.mark.parametrize("program", every(exhausting.FLOODS))
def test_endless_output_ends_the_program(wall, outside, program):
    ended = judged(program, Limits(cpu_s=20, wall_s=60, output_bytes=100_000), outside)
    assert ended.reason == "output" and max(len(ended.stdout), len(ended.stderr)) == 100_000


@pytest.mark.parametrize("program", every(exhausting.CRASHES))
def test_crashes_are_the_programs_own(wall, outside, program):
    ended = judged(program, Limits(cpu_s=2, wall_s=30, memory_mib=96), outside)
    assert ended.status != 0


def test_threads_are_limited(wall):
    program = """
import threading, time
for _ in range(200):
    threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
time.sleep(20)
"""
    ended = sandbox.run(program, limits=Limits(wall_s=60, threads=20))
    assert ended.status != 0
    assert ended.reason == "threads" or b"can't start new thread" in ended.stderr


def test_nothing_of_one_program_is_there_for_the_next(wall):
    first = """
import builtins, json, os, sys, random
builtins.len = lambda _: 13
json.loads = sys.modules['left'] = None
os.environ['left'] = '1'
sys.setrecursionlimit(77)
try:
    open('left', 'w').write('left')
except OSError:
    pass
print(random.random())
"""
    second = """
import gc, json, os, random, sys
assert (len('ab'), json.loads('1'), 'left' in sys.modules, 'left' in os.environ) == (2, 1, False, False)
assert sys.getrecursionlimit() == 1000 and not os.path.exists('left')
seen = [one for one in gc.get_objects() if isinstance(one, dict) and 'left' in str(one.get('program'))]
assert len(seen) == 1, len(seen)  # this very text
print(random.random())
"""
    one = sandbox.run(first)
    two = sandbox.run(second)
    assert (one.status, two.status) == (0, 0), (one.stderr, two.stderr)
    assert one.stdout != two.stdout


def test_the_order_of_sets_is_the_same_in_every_zygote(wall):
    program = "print(list({'a', 'b', 'c', 'd', 'e', 'f'}))"
    once = sandbox.run(program).stdout
    sandbox._shared.current.discard()
    assert sandbox.run(program).stdout == once


@pytest.mark.parametrize("name", honest.SCRIPTS)
def test_honest_programs_run(wall, name):
    program, stdin, stdout = honest.SCRIPTS[name]
    ended = sandbox.run(program, stdin.encode(), ROOM)
    assert (ended.status, ended.reason, ended.stdout.decode()) == (0, "", stdout), ended.stderr


def readable_by_others(path):
    return all(folder.stat().st_mode & 1 for folder in Path(path).parents)


@pytest.mark.parametrize("name", honest.WITH_FILES)
def test_honest_programs_that_open_files_run_where_there_are_files(wall, name):
    as_root = wall == "landlock" and os.geteuid() == 0
    if as_root and "import" in honest.WITH_FILES[name] and not readable_by_others(os.__file__):
        pytest.skip("root gives up its user, and this Python is for root alone")
    ended = sandbox.run(honest.WITH_FILES[name], limits=ROOM)
    assert ended.stdout == (b"" if wall == "seccomp" else b"ok\n"), ended.stderr


def test_a_missing_module_is_reported_as_such(wall):
    assert b"ModuleNotFoundError" in sandbox.run("import torch").stderr


def test_the_zygote_knows_nothing_of_this_project(wall):
    program = (
        "import sys\nprint(sorted(m for m in sys.modules if m.partition('.')[0] in ('posttrain', 'torch', 'numpy')))"
    )
    loaded = sandbox.run(program).stdout.decode()
    assert "jail.zygote" in loaded and not re.search("torch|numpy|errors|sandbox|code", loaded)


def test_threads_of_this_process_get_their_own_answers(wall):
    got = {}
    threads = [
        threading.Thread(target=lambda i=i: got.update({i: sandbox.run(f"print({i})").stdout})) for i in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {i: f"{i}\n".encode() for i in range(12)}


def test_a_zygote_that_died_is_replaced_behind_the_same_wall(wall):
    sandbox.run("")
    dead = sandbox._shared.current
    dead.process.kill()
    dead.process.wait()
    assert sandbox.run("print(1)").stdout == b"1\n"
    assert sandbox.wall() == wall
    assert not dead.scratch or not Path(dead.scratch).exists()


def test_programs_die_with_the_zygote(wall):
    before = set(descendants(os.getpid())) - {sandbox._shared.current.process.pid}
    program = "import time\nprint('begun', flush=True)\ntime.sleep(600)"
    with sandbox._shared.zygote().start({"role": "run", "program": program}, Limits()) as running:
        os.read(next(iter(running.outputs)), 10)
        sandbox._shared.current.discard()
        with pytest.raises(SandboxError, match="lost"):
            running.wait()
    assert settled(before) == set()


def test_a_forked_process_has_a_zygote_of_its_own(wall):
    sandbox.run("")
    child = os.fork()
    if child == 0:
        right = sandbox._shared.current is None and sandbox.run("print(1)").stdout == b"1\n"
        sandbox._shared.close()
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert sandbox.run("print(1)").stdout == b"1\n"


def test_without_a_temporary_directory_programs_do_without(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nonesuch")
    with behind("landlock"):
        assert b"42" in sandbox.run("print(42)\nopen('a', 'w')").stdout


def test_a_process_forked_meanwhile_delays_nothing(monkeypatch):
    """It inherits the pipes, so that their end is never seen."""
    fork_and_send = lambda *arguments: children.append(os.fork() or time.sleep(600)) or send(*arguments)  # noqa: E731
    children, send = [], socket.send_fds
    monkeypatch.setattr(socket, "send_fds", fork_and_send)
    assert sandbox.run("print(1)", limits=Limits(wall_s=120)).stdout == b"1\n"
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_without_a_wall_nothing_runs(monkeypatch):
    def broken(wall):
        raise SandboxError("not permitted")

    monkeypatch.setattr(sandbox, "_shared", sandbox._Shared())
    monkeypatch.setattr(sandbox, "Zygote", broken)
    monkeypatch.delenv(sandbox.VARIABLE, raising=False)
    with pytest.raises(NotStarted, match=r"seccomp: not permitted.*POSTTRAIN_SANDBOX=limits"):
        sandbox.run("print(1)")
    monkeypatch.setenv(sandbox.VARIABLE, "walls")
    with pytest.raises(NotStarted, match="'walls' names no wall; choose one of namespaces"):
        sandbox.run("print(1)")


def test_a_wall_that_does_not_hold_is_not_used(monkeypatch):
    monkeypatch.setattr(sandbox, "_shared", sandbox._Shared())
    monkeypatch.setattr(sandbox, "TRIAL", "print('connected')")
    monkeypatch.delenv(sandbox.VARIABLE, raising=False)
    with pytest.raises(NotStarted, match="seccomp: the trial program was not contained"):
        sandbox.run("print(1)")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls")
@pytest.mark.parametrize(
    ("refused", "expected"),
    [(restricted.NAMESPACES, "landlock"), (restricted.NAMESPACES + restricted.LANDLOCK, "seccomp")],
)
def test_where_a_pod_is_restricted_the_next_wall_is_used(wall, refused, expected):
    if wall != expected:
        pytest.skip("another wall")
    environment = {name: value for name, value in os.environ.items() if name != sandbox.VARIABLE}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.verifiers.restricted", *map(str, refused)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.stdout.strip() == expected, ended.stderr


def test_bare_limits_by_name_leave_no_process_either():
    daemon = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        os.fork()
        time.sleep(600)
print("ok")
"""
    with behind(sandbox.UNISOLATED):
        before = set(descendants(os.getpid()))
        assert sandbox.run(daemon + "os.makedirs('a/b')", limits=ROOM).stdout == b"ok\n"
        assert settled(before) == set()


def test_system_call_numbers_are_the_kernels():
    headers = {0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), 1: Path("/usr/include/asm-generic/unistd.h")}
    if not all(header.is_file() for header in headers.values()):
        pytest.skip("no kernel headers here")
    conditional = {name: numbers for name, (numbers, _) in syscalls.CONDITIONAL.items()}
    for column, header in headers.items():
        known = {m[1]: int(m[2]) for m in re.finditer(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())}
        known.setdefault("newfstatat", known.get("fstatat"))
        for name, numbers in {**syscalls.PLAIN, **syscalls.BY_PATH, **conditional}.items():
            assert numbers[column] == known.get(name), name
