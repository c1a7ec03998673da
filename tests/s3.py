"""A real S3 server on loopback: versitygw if it is installed or go can build it, else moto's."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest

ACCESS, SECRET = "posttrain-tests", "a-secret-never-to-be-shown"
BUCKET = "bucket"
_CACHE = Path.home() / ".cache" / "posttrain-tests"
_MODULE = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"


@dataclass(frozen=True)
class Server:
    """Where the server listens; `environment` is what a client needs to use it. moto's lets any secret in."""

    url: str
    checks_credentials: bool = True
    data: Path | None = None  # where versitygw keeps the objects, as files

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def client(self) -> Any:
        return _client(self.url)

    def stored(self, prefix: str = "") -> list[str]:
        return [item["Key"] for item in self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]

    def put(self, key: str, body: bytes = b"body") -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=body)


@cache
def _client(url: str) -> Any:
    given = {"aws_access_key_id": ACCESS, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    return boto3.session.Session().client("s3", endpoint_url=url, **given)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with versitygw(tmp_path_factory.mktemp("s3")) or _moto() as server:
        yield server


@pytest.fixture
def s3(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server with an empty bucket, and the environment pointed at it."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials of its first use
    if BUCKET not in {bucket["Name"] for bucket in s3_server.client.list_buckets()["Buckets"]}:
        s3_server.client.create_bucket(Bucket=BUCKET)
    for key in s3_server.stored():
        s3_server.client.delete_object(Bucket=BUCKET, Key=key)
    return s3_server


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A URI on a disk, and one in the server's bucket, with nothing there yet."""
    if request.param == "disk":
        return str(tmp_path / "kept")
    request.getfixturevalue("s3")
    return f"s3://{BUCKET}/kept"


def _binary() -> str | None:
    """versitygw on PATH or where go puts it; else built once into a cache. None without go or network."""
    go = shutil.which("go")
    places = [str(_CACHE)]
    if go:
        gopath = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True).stdout.strip()
        places.append(f"{gopath}/bin")
    found = shutil.which("versitygw") or shutil.which("versitygw", path=os.pathsep.join(places))
    if found or not go:
        return found
    command, environment = [go, "install", _MODULE], {**os.environ, "GOBIN": str(_CACHE)}
    try:
        subprocess.run(command, env=environment, capture_output=True, check=True, timeout=400)
    except subprocess.SubprocessError:
        return None
    return str(_CACHE / "versitygw")


def versitygw(home: Path, *arguments: str, scheme: str = "http") -> Any:
    """A context with versitygw, data and log in `home`; None where it cannot be had."""
    binary = _binary()
    return _running(binary, home, arguments, scheme) if binary else None


def command(*arguments: str) -> str:
    """Runs versitygw for its output."""
    binary = _binary()
    assert binary
    return subprocess.run([binary, *arguments], capture_output=True, text=True, check=True).stdout


@contextmanager
def _running(binary: str, home: Path, arguments: tuple[str, ...], scheme: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (home / "data").mkdir()
    address = ["--port", f"127.0.0.1:{port}", "--access", ACCESS, "--secret", SECRET]
    command = [binary, *address, *arguments, "posix", "data"]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=home, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait(port, process, home / "log")
        yield Server(f"{scheme}://127.0.0.1:{port}", data=home / "data")
    finally:
        process.terminate()
        process.wait(10)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"versitygw does not listen: {log.read_text()}")


@contextmanager
def _moto() -> Iterator[Server]:
    server = pytest.importorskip("moto.server", reason="needs versitygw, go, or moto[server]").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0
    )
    server.start()
    yield Server("http://{}:{}".format(*server.get_host_and_port()), checks_credentials=False)
    server.stop()
