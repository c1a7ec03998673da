"""The verifier `code`: what passes, what is complained of, and that no program passes without being right."""

import functools
import platform
import re

import pytest

from posttrain.errors import VerifierError
from posttrain.verifiers import code, names, sandbox, validate, verify
from posttrain.verifiers.sandbox import SandboxError
from posttrain.verifiers.verdict import NOT_FOUND, UNSCORABLE
from posttrain.verifiers.worker import NotStarted
from tests.verifiers import forging, honest

pytestmark = [
    pytest.mark.skipif(platform.system() != "Linux", reason="the sandbox is Linux's"),
    pytest.mark.xdist_group("sandbox"),
]

SUM = {"tests": [{"input": "2 3\n", "output": "5\n"}, {"input": "-1 1", "output": "0"}]}
SQUARE = {"tests": ["assert f(2) == 4", "assert f(3) == 9"], "entry": "f"}
FORGING = {"tests": forging.TESTS, "entry": "f", "time_limit": 1.0, "memory_limit": 128}


def score(program, tests, **more):
    return code.verify(program, {"tests": tests, **more}).score


def test_it_is_registered_and_judges():
    assert "code" in names()
    program = "print(sum(map(int, input().split())))"
    assert verify(program, "code", SUM) == code.Verdict(1.0, program)
    assert verify(f"So:\n```python\n{program}\n```\n", "code", SUM).answer == program
    assert verify("print(5)", "code", SUM).score == 0
    assert verify("", "code", SUM) == NOT_FOUND
    assert verify("#" * 200_000, "code", SUM) == UNSCORABLE
    assert validate("code", SUM) is None and validate("code", SQUARE) is None


@pytest.mark.parametrize(
    ("written", "expected", "right"),
    [
        ("5", "5\n", True), ("5  \n\n\n", "5", True), ("a \nb\t\r\n", "a\nb", True), ("", " \n", True),
        (" 5", "5", False), ("5\n\n6", "5\n6", False), ("5.0", "5", False), ("56", "5", False), ("é", "é", True),
    ],
)  # fmt: skip
def test_output_is_compared_but_for_white_space_at_ends(written, expected, right):
    assert score(f"print({written!r}, end='')", [{"input": "", "output": expected}]) == right


def test_a_program_that_fails_after_the_right_output_is_wrong():
    for end in ("raise ValueError", "exit(1)", "import os; os.abort()", "while True: pass", "print('x' * 10**8)"):
        assert score(f"print(5, flush=True)\n{end}", [{"input": "", "output": "5"}], time_limit=0.3) == 0
    assert score("import os\nprint(5, flush=True)\nos._exit(0)", [{"input": "", "output": "5"}]) == 1


def test_limits_of_the_reference_hold():
    case = [{"input": "", "output": "1"}]
    assert score("x = bytearray(100 << 20)\nprint(1)", case) == 1
    assert score("x = bytearray(100 << 20)\nprint(1)", case, memory_limit=64) == 0
    assert score("for _ in range(10**9): pass\nprint(1)", case, time_limit=0.2) == 0


@pytest.mark.parametrize("name", honest.PROGRAMS)
def test_honest_programs_pass(name):
    program, tests = honest.PROGRAMS[name]
    assert code.validate({"tests": tests}) is None
    assert score(program, tests) == 1
    assert score(program, [*tests, "assert not 'reached'"]) == 0


def test_entry_names_what_the_tests_take():
    own_sum = "def sum(a, b): return a - b"
    assert score(own_sum, ["assert sum(3, 2) == 1"], entry="sum") == 1
    assert score("def g(): return 1", ["assert candidate() == 1"], entry="g") == 1
    assert score("def g(): return 1", ["assert g() == 1"], entry=["g", "h"]) == 0
    assert score("def h(): return 1\ndef g(): return h()", ["assert g() == h()"], entry=["g", "h"]) == 1


@pytest.mark.parametrize("group", ["ENDINGS", "INTERPRETER", "OBJECTS", "CHANNEL"])
def test_no_program_passes_without_being_right(group, monkeypatch):
    assert code.validate(FORGING) is None
    assert code.verify(forging.RIGHT, FORGING).score == 1
    scores = {}
    for name, program in getattr(forging, group).items():
        with monkeypatch.context() as patch:
            if name in forging.ASLEEP:
                patch.setattr(code, "Limits", functools.partial(code.Limits, wall_s=1.0))
            scores[name] = code.verify(program or "pass", FORGING).score
    assert {name: value for name, value in scores.items() if value != 0} == {}
    assert code.verify(forging.RIGHT, FORGING).score == 1


@pytest.mark.parametrize("group", ["INTERPRETER", "OBJECTS", "CHANNEL"])
def test_no_test_alone_is_passed_either(group):
    """All together, one sound test would hide that another can be had."""
    forgers = {name: text for name, text in getattr(forging, group).items() if name not in forging.SLOW}
    passed = []
    for test in forging.TESTS[forging.ONLY_ALL_TOGETHER :]:
        reference = {**FORGING, "tests": [test]}
        assert code.verify(forging.RIGHT, reference).score == 1
        passed += [(name, test) for name, text in forgers.items() if code.verify(text, reference).score != 0]
    assert passed == []


def test_an_object_in_place_of_data_is_wrong_and_not_the_tests_fault():
    obj = "class A:\n    def __getitem__(self, key): return self\n    __setitem__ = index = print\ndef f(): return A()"
    for test in ("f()[1:2] == [1]", "f()[object()] == 1", "f()[f] == 1", "f()[:] is None", "f().x == object()"):
        assert score(obj, [f"assert {test}"]) == 0
    assert score(obj, ["a = f()\na[0] = object()\nassert a == [object]"]) == 0
    assert score("def f(): return range(9)", ["assert f()[1:3] == range(1, 3)"]) == 1
    assert (
        score(
            "class A:\n    def __getitem__(self, key): return key",
            ["assert A()[1:2, ...:3] and A()[1:2] == slice(1, 2)"],
        )
        == 0
    )
    assert score("class A:\n    def __getitem__(self, key): return key", ["assert A()[1:2] == slice(1, 2)"]) == 1


def test_a_program_does_not_see_what_is_expected(monkeypatch):
    look = """
import gc
def f():
    return [type(one) for one in gc.get_objects() if "expec" + chr(116) + "ation" in str(one)]
"""
    printed, run = [], sandbox.run
    monkeypatch.setattr(sandbox, "run", lambda *arguments: printed.append(run(*arguments)) or printed[-1])
    assert score(look + "print(f())", [{"input": "", "output": "expectation"}]) == 0
    assert printed[0].stdout == b"[]\n"
    assert score(look, ["assert f() == [], 'expectation'"], entry="f") == 1


COMPLAINTS = [
    (None, "must be an object with tests"),
    ("assert f(1)", "must be an object"),
    ({"test": []}, "did you mean 'tests'"),
    ({"tests": []}, "tests must be a list"),
    ({"tests": "assert f(1) == 1"}, "tests must be a list"),
    ({"tests": ["assert f(1) == 1", {"output": "1"}]}, "all cases .objects. or all statements"),
    ({"tests": [1]}, "all cases"),
    ({"tests": [{"input": "1"}]}, r"tests\[0\]: the reference lacks 'output'"),
    ({"tests": [{"output": "1"}, {"output": 1}]}, r"tests\[1\]: output must be text, not 1"),
    ({"tests": [{"output": "1", "in": ""}]}, "unknown key 'in'"),
    ({"tests": ["assert f(1) == 1", "assert f("]}, r"tests\[1\] is not Python"),
    ({"tests": ["f(1)\0"]}, "is not Python"),
    ({"tests": ["assert 1 == 1"]}, "use nothing of the program"),
    ({"tests": ["assert len([]) == 0"]}, "use nothing of the program"),
    ({"tests": ["assert f(1) == g(1)"], "entry": "f"}, "use 'g', which neither they nor entry define"),
    ({"tests": ["assert f(1)"], "entry": "f(x)"}, "entry must be the name"),
    ({"tests": ["assert f(1)"], "entry": 5}, "entry must be"),
    ({"tests": ["assert f(1)"], "time_limit": 0}, "time_limit must be a number of seconds from 0.1 to 600, not 0"),
    ({"tests": ["assert f(1)"], "time_limit": "2"}, "time_limit"),
    ({"tests": ["assert f(1)"], "memory_limit": True}, "memory_limit"),
]
USELESS = [
    ({"tests": [{"output": " \n"}]}, "an empty program passes"),
    ({"tests": ["f"]}, "a program that does nothing passes"),
    ({"tests": ["def test_f():\n    assert f(1) == 1"]}, "a program that does nothing passes"),
    ({"tests": ["class N: pass\nassert f(N())"]}, r"tests\[0\] Unsupported: hands a N to the program"),
    ({"tests": ["assert f(iter([])) == 1"]}, "hands a list_iterator"),
    ({"tests": ["import nonesuch\nassert f(1) == 1"]}, "No module named 'nonesuch'"),
]


@pytest.mark.parametrize(("reference", "message"), COMPLAINTS + USELESS)
def test_it_complains_of_references_in_one_line(reference, message):
    complaint = code.validate(reference)
    assert complaint.startswith("code") and "\n" not in complaint
    assert re.search(message, complaint), complaint


@pytest.mark.parametrize("reference", [reference for reference, _ in COMPLAINTS])
def test_it_refuses_to_judge_by_them(reference):
    with pytest.raises(VerifierError):
        code.verify("def f(x): return x", reference)


def test_columns_of_parquet_bring_unset_keys():
    assert score("print(1)", [{"input": None, "output": "1"}], entry=None, time_limit=None, memory_limit=None) == 1


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("x = 1", "x = 1"), ("```python\nx = 1\n```", "x = 1"), ("a\n```py\nx\n```\nb\n```python3\ny\n```\nc", "y"),
        ("```python\nx\n```\n```text\nz\n```", "x"), ("```\nz\n```\n```Python title\nx\n```", "x"),
        ("```python\nx\ny", "x\ny"),
        ("```text\n```python\n```\nx", "```text\n```python\n```\nx"), ("```python\ns = '```'\n```", "s = '```'"),
        ("~~~python\nx\n~~~", "~~~python\nx\n~~~"), ("  ```python  \n  x\n  ```", "  x"), ("```python\n```", ""),
        ("````python\n'''\n````", "'''"),
    ],
)  # fmt: skip
def test_the_program_is_the_last_python_block(completion, program):
    assert code.find(completion) == program


def test_a_broken_sandbox_makes_unscorable_and_a_missing_one_is_an_error(monkeypatch):
    def broken(*_):
        raise SandboxError("lost")

    monkeypatch.setattr(sandbox, "run", broken)
    assert verify("print(1)", "code", SUM) == UNSCORABLE

    def missing(*_):
        raise NotStarted("no program can be isolated here")

    monkeypatch.setattr(sandbox, "run", missing)
    monkeypatch.setattr(sandbox, "run_tests", missing)
    with pytest.raises(NotStarted):
        verify("print(1)", "code", SUM)
    with pytest.raises(NotStarted):
        validate("code", SQUARE)
