"""Retraining's own stages: what there is to learn from, what is set down, and who is told what came of it."""

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from posttrain.components.catalogue import load_stage

from posttrain.errors import ConfigError
from posttrain.kubeflow.webhook import VARIABLE
from posttrain.registry import open_registry
from posttrain.registry.retraining import Retraining
from posttrain.stage import execute
from tests.made import evaluated, refused


class Nights:
    """Runs of the stages around a recipe, one a night."""

    def __init__(self, root, home):
        self.root, self.home, self.number = root, home, 0
        self.shared = {"registry": f"{root}/registry", "model": "student"}

    def arrives(self, name):
        (self.root / "data" / name).mkdir(parents=True)
        for file in ("problems.jsonl", "_SUCCESS"):
            (self.root / "data" / name / file).write_text("x")

    def begins(self, **settings):
        self.number += 1
        where = {"data": f"{self.root}/data", "run": f"run-{self.number}", "base": "s3://b/base"}
        return self._execute("data_version", {}, {**where, **self.shared, **settings}).facts

    def decides(self, facts, right):
        """The gate's decision on a challenger with that many right of four, and its registration."""
        champion = evaluated(self._at("before"), self.home / "policy", self.home / "problems", [2] * 40)
        candidate = evaluated(self._at("after"), self.home / "sibling", self.home / "problems", [right] * 40)
        gate = self._at("gate")
        execute(load_stage("gate"), {"champion": [champion], "candidate": [candidate]}, {}, gate)
        settings = {**self.shared, "refused": "note", "data_version": facts["version"], "run": f"run-{self.number}"}
        return self._execute("register", {"policy": [self.home / "sibling"], "decision": [gate]}, settings)

    def ends(self, **settings):
        return self._execute("conclude", {}, {**self.shared, "run": f"run-{self.number}", **settings}).facts

    def _execute(self, stage, parents, settings):
        return execute(load_stage(stage), parents, settings, self._at(stage))

    def _at(self, name):
        return self.root / "made" / f"{name}-{self.number}"


@pytest.fixture
def nights(tmp_path, home, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    return Nights(tmp_path, home)


def test_new_data_is_taken_once(nights):
    nights.arrives("2026-01-01")
    first = nights.begins()
    assert (first["verdict"], first["base"]) == ("new", "s3://b/base")
    assert first["problems"] == f"{nights.root}/data/2026-01-01/problems.jsonl"
    nights.decides(first, right=4)
    assert nights.ends()["event"] == "registered"
    assert (second := nights.begins())["verdict"] == "nothing new"
    assert "decided on by run run-1: registered" in second["reason"]
    assert nights.ends()["event"] == "nothing new"


def test_the_next_night_starts_from_the_champion(nights):
    nights.arrives("2026-01-01")
    nights.decides(nights.begins(), right=4)
    nights.arrives("2026-01-02")
    assert nights.begins(base="")["base"] == f"{nights.root}/registry/student/v1"


@pytest.mark.parametrize(("right", "event"), [(1, "fail"), (2, "undecided")])
def test_what_the_gate_refused_is_not_registered_and_not_tried_again(nights, right, event):
    nights.arrives("2026-01-01")
    record = nights.decides(nights.begins(), right)
    assert "version" not in record.facts
    assert open_registry(f"{nights.root}/registry").index("student").versions == []
    told = nights.ends()
    assert (told["event"], told["version"]) == (event, 0)
    assert "gain in pass@1" in told["reason"]
    assert nights.begins()["verdict"] == "nothing new"
    assert nights.begins(again=True)["verdict"] == "new"


def test_data_of_a_run_that_failed_is_tried_again(nights):
    nights.arrives("2026-01-01")
    nights.begins()
    assert nights.ends()["event"] == "ended early"
    assert nights.begins()["verdict"] == "new"


def test_data_that_is_replaced_is_new(nights):
    nights.arrives("2026-01-01")
    nights.decides(nights.begins(), right=1)
    (nights.root / "data/2026-01-01/problems.jsonl").write_text("mended")
    assert nights.begins()["verdict"] == "new"


def test_there_must_be_something_to_start_from(nights):
    nights.arrives("2026-01-01")
    settings = {**nights.shared, "data": f"{nights.root}/data"}
    refused("data_version", {}, settings, nights.root / "x", ConfigError, "no champion of 'student' yet; give a base")


def test_a_plan_is_forgotten_once_it_was_said(nights):
    nights.arrives("2026-01-01")
    nights.begins()
    memory = Retraining(f"{nights.root}/registry", "student")
    assert memory.plan("run-1").data.startswith("2026-01-01@")
    nights.ends()
    assert memory.plan("run-1") is None


@contextmanager
def webhook(*statuses):
    """A server that answers so, one after the other; what it was told."""
    told, left = [], list(statuses)

    class Handler(BaseHTTPRequestHandler):
        wbufsize = -1

        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(left.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/secret-path", told
        server.shutdown()


def test_the_webhook_says_what_happened_and_why(nights, monkeypatch):
    nights.arrives("2026-01-01")
    nights.decides(nights.begins(), right=4)
    with webhook(503, 200) as (url, told):
        monkeypatch.setenv(VARIABLE, url)
        facts = nights.ends(link="https://kubeflow.example")
    assert len(told) == 2  # the first was answered 503
    assert told[1]["text"].startswith("student: v1 is the new champion (champion: v1). gain in pass@1 +0.500")
    assert told[1]["text"].endswith("https://kubeflow.example/#/runs/details/run-1")
    assert (told[1]["event"], told[1]["data"][:10], told[1]["champion"]) == ("registered", "2026-01-01", 1)
    assert facts["webhook"] == "told 127.0.0.1"
    assert "secret-path" not in json.dumps(facts)


@pytest.mark.parametrize(("url", "said"), [("hooks.example", "no http:// or https:// URL"), ("", "is not set")])
def test_a_webhook_that_is_none_hides_nothing(nights, monkeypatch, url, said):
    monkeypatch.setenv(VARIABLE, url)
    nights.arrives("2026-01-01")
    nights.begins()
    assert said in nights.ends()["webhook"]


def test_what_nobody_wants_to_hear_is_not_sent(nights, monkeypatch):
    nights.begins()
    with webhook() as (url, told):
        monkeypatch.setenv(VARIABLE, url)
        assert nights.ends()["webhook"] == "not told of 'nothing new'"
    assert told == []
