"""The public face: names, plugins, failures, and the worker processes."""

import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

import posttrain.verifiers as verifiers
from posttrain.errors import VerifierError
from posttrain.verifiers import Ask, Bench, Verdict, crashes, names, register, validate, verify, verify_all, worker


@pytest.fixture(autouse=True)
def forget_what_tests_register(monkeypatch):
    monkeypatch.setattr(verifiers, "_registered", {})
    crashes.clear()


def test_every_builtin_is_named_and_judges():
    assert set(names()) >= {"choice", "countdown", "exact", "math", "numeric", "reasoning_gym", "regex"}
    assert verify("3*5+7", "countdown", {"numbers": [3, 5, 7], "target": 22}) == Verdict(1.0, "3*5+7")
    assert validate("countdown", {"numbers": [1], "target": 2}) == "countdown: no expression of [1] makes 2"


def test_importing_the_package_is_cheap():
    code = "import sys, posttrain.verifiers as v; v.names(); print({'sympy', 'reasoning_gym'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_an_unknown_verifier_names_the_nearest():
    with pytest.raises(VerifierError, match="unknown verifier 'maths'; did you mean 'math'"):
        verify("5", "maths", 5)


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_score_out_of_range_is_refused(score):
    with pytest.raises(VerifierError):
        Verdict(score, None)


def test_a_registered_verifier_judges_and_its_name_is_taken():
    @register("palindrome", validate=lambda reference: None if reference is None else "palindrome: takes no reference")
    def palindrome(completion, reference, prompt):
        return Verdict(float(completion == completion[::-1]), completion)

    assert verify("otto", "palindrome", None).score == 1
    assert validate("palindrome", 5) == "palindrome: takes no reference"
    for taken in ("palindrome", "math"):
        with pytest.raises(VerifierError, match="already"):
            register(taken)


def test_a_plugin_is_loaded_by_entry_point(monkeypatch):
    loaded = SimpleNamespace(verify=lambda completion, reference, prompt: Verdict(0.5, prompt))
    offered = SimpleNamespace(load=lambda: loaded, value="mine:loaded")
    monkeypatch.setattr(verifiers, "entry_points", lambda group, name=None: [offered] if name == "plugged" else [])
    assert verify("x", "plugged", None, prompt="p") == Verdict(0.5, "p")
    assert validate("plugged", None) is None
    verifiers._load.cache_clear()


def test_a_failing_verifier_makes_unscorable_and_is_counted():
    @register("broken")
    def broken(completion, reference, prompt):
        raise ZeroDivisionError

    assert verify("x", "broken", None) == Verdict(None, None)
    assert crashes == {"broken": 1}


def test_a_verifier_that_returns_no_verdict_is_refused():
    register("bare")(lambda completion, reference, prompt: 1.0)
    with pytest.raises(VerifierError, match="must return a Verdict"):
        verify("x", "bare", None)


def test_catastrophic_backtracking_ends_at_the_deadline_and_the_next_is_judged(monkeypatch):
    monkeypatch.setattr(worker, "DEADLINE_S", 0.5)
    started = time.monotonic()
    assert verify("a" * 50 + "c", "regex", {"pattern": "(a+)+b"}) == Verdict(None, None)
    assert time.monotonic() - started < 30 and crashes == {"regex": 1}
    assert verify("aab", "regex", {"pattern": "(a+)+b"}).score == 1


def test_workers_answer_threads_each_its_own():
    got = {}
    threads = [threading.Thread(target=lambda i=i: got.update({i: verify(str(i), "regex", {"pattern": str(i)}).answer}))
               for i in range(20)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {i: str(i) for i in range(20)}


def test_many_are_judged_in_order_whoever_judges_them():
    asks = [Ask(str(n), *given) for n in range(9) for given in (("exact", "3"), ("regex", {"pattern": "[5-9]"}))]
    assert [verdict.score for verdict in verify_all(asks)] == [
        score for n in range(9) for score in (float(n == 3), float(n >= 5))
    ]
    assert list(verify_all([])) == []


def test_many_end_at_the_first_that_cannot_be_judged():
    good, bad = Ask("a", "regex", {"pattern": "a"}), Ask("a", "regex", {"pattern": "("})
    verdicts = verify_all([good, Ask("a", "exact", "a"), bad, *[good] * 5, Ask("a", "exact", None)])
    assert [next(verdicts).score for _ in range(2)] == [1, 1]
    with pytest.raises(VerifierError, match="does not compile"):
        next(verdicts)
    with pytest.raises(VerifierError, match="unknown verifier 'exakt'"):
        next(verify_all([good, Ask("a", "exakt", "a")]))


def test_verifiers_say_who_they_are():
    assert Bench(["exact", "choice", "exact"]).facts() == {"verifiers": "choice@0.1.0, exact@0.1.0"}
    with pytest.raises(VerifierError, match="unknown verifier 'exakt'"):
        Bench(["exakt"])


def test_a_worker_that_died_is_replaced_and_refusals_cross():
    remote = verifiers._load("regex")
    assert verify("x", "regex", {"pattern": "x"}).score == 1
    for idle in remote._idle:
        idle.process.kill()
        idle.process.wait()
    assert verify("\ud800 \0", "regex", {"pattern": "x"}).score == 0
    with pytest.raises(VerifierError, match="'pattern'"):
        verify("x", "regex", {})
    assert "not JSON" in validate("regex", {"pattern": {1, 2}})


def test_a_missing_package_is_an_error_not_a_crash():
    with pytest.raises(VerifierError, match="nonesuch"):
        worker.Remote("posttrain.verifiers.nonesuch").verify("x", None)


def test_a_missing_package_is_not_blamed_on_the_reference(monkeypatch):
    monkeypatch.setattr(verifiers, "_load", lambda name: worker.Remote("posttrain.verifiers.nonesuch"))
    with pytest.raises(VerifierError, match="nonesuch"):
        validate("math", 5)
