"""Programs that want to pass these tests without being right. Each defines f, or tries to make do without."""

# ruff: noqa: E501

TESTS = [
    "assert f(2) == 4",
    "assert f(3) != 4",
    "assert abs(f(3) - 9) < 1e-9",
    "assert math.isclose(f(3), 9)",
    "assert f(5, key=lambda x: x) in (25,)",
    "assert [f(n) for n in range(4)] == [0, 1, 4, 9]",
    "assert isinstance(f(4), int) and 15 < f(4) < 17",
    "assert all([f(1) == 1, f(7) == 49])",
]
ONLY_ALL_TOGETHER = 2
"""So many of them are passed, rightly, by what always answers 4, or always something else."""

RIGHT = "def f(x, key=None):\n    return key(x) ** 2 if key else x * x"

ASLEEP = {"sleeps", "reads_the_questions"}  # they wait until they are ended
SLOW = ASLEEP | {"odd_kinds"}  # it is ended at its limit before any test has begun

# Frames of the channel, as a program can send them that has read this project's sources.
WIRE = """
import json, os, sys, threading, time
def frame(message):
    data = json.dumps(message).encode()
    return len(data).to_bytes(4, "big") + data
def send(*messages):
    os.write(4, b"".join(map(frame, messages)))
peer = sys.modules["posttrain.verifiers.jail.peer"]
plain = sys.modules["posttrain.verifiers.jail.plain"]
def f(x, key=None):
    return 0
"""

ENDINGS = {
    "nothing": "",
    "prints": "print('PASS', 'OK', '5 passed', 'passed', sep='\\n')\ndef f(x, key=None): return 0",
    "exits": "import os\nos._exit(0)",
    "exits_with_their_code": "import os\nos._exit(10)",
    "exits_when_called": "import os\ndef f(x, key=None): os._exit(10)",
    "system_exit": "import sys\nsys.exit(10)",
    "system_exit_when_called": "def f(x, key=None): raise SystemExit(10)",
    "interrupt": "def f(x, key=None): raise KeyboardInterrupt",
    "generator_exit": "def f(x, key=None): raise GeneratorExit",
    "base_exception": "class E(BaseException): pass\ndef f(x, key=None): raise E",
    "stop_iteration": "def f(x, key=None): raise StopIteration(x)",
    "at_exit": "import atexit, os\natexit.register(os._exit, 10)\nraise ValueError",
    "kills_itself": "import os, signal\ndef f(x, key=None): os.kill(os.getpid(), 9)",
    "thread_exits": "import os, threading, time\nthreading.Thread(target=lambda: (time.sleep(0.02), os._exit(10))).start()",
    "crashes": "import ctypes\ndef f(x, key=None): ctypes.string_at(0)",
    "sleeps": "import time\ndef f(x, key=None): time.sleep(600)",
    "loops_at_once": "while True: pass",
}

INTERPRETER = {
    "no_assertion_error": "import builtins\nbuiltins.AssertionError = Exception\ndel builtins.AssertionError\ndef f(x, key=None): return 0",
    "no_raise": "import builtins\nclass A(BaseException):\n    def __new__(c, *a): return None\nbuiltins.AssertionError = A\ndef f(x, key=None): return 0",
    "builtins": """
import builtins
for name in dir(builtins):
    if name.islower() and name not in ("print", "setattr"):
        try:
            setattr(builtins, name, lambda *a, **k: True)
        except Exception:
            pass
def f(x, key=None): return 0
""",
    "own_abs_and_all": "def abs(x): return 0\ndef all(x): return True\ndef isinstance(*a): return True\ndef range(n): return []\ndef f(x, key=None): return 4",
    "own_math": "class math:\n    isclose = staticmethod(lambda *a, **k: True)\ndef f(x, key=None): return 4",
    "own_dunders": "__builtins__ = {}\n__name__ = 'tests'\n__debug__x = False\ndef f(x, key=None): return 0",
    "settrace": """
import sys, threading
def trace(frame, event, argument):
    for name in list(frame.f_locals):
        frame.f_locals[name] = 10
    return trace
sys.settrace(trace)
sys.setprofile(trace)
threading.settrace(trace)
def f(x, key=None): return 0
""",
    "frames": """
import sys, os
def f(x, key=None):
    frame = sys._getframe()
    while frame:
        for name, value in {**frame.f_globals, **frame.f_locals}.items():
            if "AssertionError" in str(value) or "code" in name:
                frame.f_globals[name] = 10
        frame = frame.f_back
    return 0
""",
    "collector": """
import gc
def f(x, key=None):
    for one in gc.get_objects():
        if isinstance(one, dict) and "tests" in one:
            one["tests"] = []
        if isinstance(one, list) and any("assert" in str(e) for e in one[:3]):
            return eval(one[0].partition("==")[2])
    return 0
""",
    "memory": """
import ctypes, re, gc
def f(x, key=None):
    for one in gc.get_objects():
        try:
            found = re.search(r"assert f\\(2\\) == (\\d+)", str(one))
        except Exception:
            continue
        if found:
            return int(found[1])
    return 0
""",
    "import_hook": "import sys\nclass F:\n    def find_spec(s, *a): raise SystemExit(10)\nsys.meta_path.insert(0, F())\nsys.modules.pop('math', None)\ndef f(x, key=None): return 0",
    "roles": "import sys\nsys.modules['posttrain.verifiers.jail.roles'].FAILED = 10\nsys.modules['posttrain.verifiers.jail.roles']._fail = print\ndef f(x, key=None): return 0",
}

ANYTHING = """
class Anything{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return {differs}
    def __hash__(self): return 0
    def __bool__(self): return True
    def __len__(self): return 4
    def __abs__(self): return 0
    def __call__(self, *a, **k): return self
    def __getattr__(self, name): return self
    def __getitem__(self, n): return self
    def __contains__(self, x): return True
    def __instancecheck__(self, x): return True
    __lt__ = __le__ = __gt__ = __ge__ = __eq__
    __sub__ = __add__ = __mul__ = __rsub__ = lambda self, other: 0
    __index__ = __int__ = __trunc__ = lambda self: 4
    __float__ = lambda self: 4.0
def f(x, key=None): return Anything({made})
"""
OBJECTS = {
    "object": ANYTHING.format(base="", differs=True, made=""),
    "disguised": ANYTHING.format(base="", differs=True, made="") + "Anything.__class__ = property(lambda self: int)",
    "int": ANYTHING.format(base="(int)", differs=True, made="4"),
    "float": ANYTHING.format(base="(float)", differs=False, made="4"),
    "str": ANYTHING.format(base="(str)", differs=True, made="'4'"),
    "list": ANYTHING.format(base="(list)", differs=True, made=""),
    "dict": ANYTHING.format(base="(dict)", differs=True, made=""),
    "exception": ANYTHING.format(base="(Exception)", differs=True, made=""),
    "class": ANYTHING.format(base="", differs=True, made="") + "f = Anything",
    "not_a_number": "def f(x, key=None): return float('nan')",
    "generator": "import itertools\ndef f(x, key=None): return itertools.count()",
    "counter_of_calls": "calls = []\ndef f(x, key=None):\n    calls.append(x)\n    return len(calls)",
    "constant": "def f(x, key=None): return 4",
    "mock": "from unittest.mock import MagicMock\nf = MagicMock()",
}

CHANNEL = {
    "writes_everywhere": WIRE
    + "for n in range(64):\n    try:\n        os.write(n, b'PASSED' * 99 + frame(['return', 4, {}]))\n    except OSError: pass",
    "answers_first": WIRE + "send(*[['return', n * n, {}] for n in range(30)])",
    "floods": WIRE
    + "def flood():\n    while True:\n        send(['return', 4, {}])\nthreading.Thread(target=flood, daemon=True).start()",
    "more_names": WIRE
    + """
real = peer.Program.perform
def perform(self, operation, values, named):
    result = real(self, operation, values, named)
    if operation == "names":
        yes = lambda *a, **k: True
        result |= {"abs": lambda x: 0, "all": yes, "isinstance": yes, "range": lambda n: [], "math": yes}
        result |= {"AssertionError": yes, "__builtins__": {}, "__name__": "x"}
    return result
peer.Program.perform = perform
""",
    "not_names": WIRE + "peer.Program.perform = lambda *a: 5",
    "no_names": WIRE + "send(['return', None, None])",
    "asks_exec": WIRE
    + """
def f(x, key=None):
    send(["ask", "call", [["builtin", "exec"], "import os; os._exit(10)"], {}],
         ["ask", "call", ["exec", "import os; os._exit(10)"], {}])
    return 0
""",
    "asks_for_globals": WIRE
    + """
def f(x, key=None):
    send(*[["ask", "getattr", [["yours", n], "__globals__"], {}] for n in range(3)],
         *[["ask", "setattr", [["yours", n], "__code__", None], {}] for n in range(3)],
         *[["ask", "eq", [["yours", n], ["yours", n]], {}] for n in range(3)])
    return 0
""",
    "asks_names": WIRE + "send(['ask', 'names', [['tuple', 'f']], {}])",
    "asks_itself": WIRE + "def f(x, key=None):\n    send(*[['ask', 'call', [['mine', 0], x], {}]] * 50)\n    return 0",
    "calls_the_key_with_itself": "def f(x, key=None):\n    return key(f) if key else 0",
    "raises_oddly": WIRE
    + "send(['raise', ['SystemExit', 'BaseException'], '10'], ['raise', [], 10], ['raise', {}, {}], ['raise'])",
    "raises_classes": WIRE
    + "send(['return', ['error', ['AssertionError', 'object']], {}], ['return', ['error', [[]]], {}])",
    "changes_arguments": WIRE + "send(['return', ['dict', ['f', 4]], {'0': ['list'], '-1': ['dict']}])",
    "deep_reply": WIRE
    + "def f(x, key=None):\n    data = b'[\"list\",' * 10**5\n    os.write(4, len(data).to_bytes(4, 'big') + data)",
    "long_reply": WIRE + "def f(x, key=None):\n    os.write(4, b'\\xff' * 10**5)",
    "half_a_reply": WIRE + "def f(x, key=None):\n    os.write(4, frame(['return', 4, {}])[:-3])\n    os._exit(0)",
    "empty_replies": WIRE + "def f(x, key=None):\n    os.write(4, bytes(4000))",
    "not_json": WIRE + "def f(x, key=None):\n    os.write(4, (5).to_bytes(4, 'big') + b'\\x80\\x04N.\\xff')",
    "pickle": WIRE
    + "import pickle\nclass R:\n    def __reduce__(self): return (eval, ('__import__(\"os\")._exit(10)',))\ndef f(x, key=None): return R()\nsend(pickle.dumps(R()).hex())",
    "odd_kinds": WIRE + "plain.encode = lambda *a: ['range', ['0x0', '0xffffffffffff', '0x1']]",
    "huge_number": WIRE + "def f(x, key=None): return 1 << (1 << 26)",
    "object_of_json": WIRE + "send(['return', {'f': 4}, {}])",
    "unknown_object": WIRE
    + "def f(x, key=None):\n    send(['return', ['yours', 99], {}], ['return', ['yours', 'x'], {}], ['return', ['mine', [1]], {}])",
    "closes_everything": WIRE + "os.closerange(0, 99)",
    "reads_the_questions": WIRE + "def f(x, key=None):\n    return json.loads(os.read(3, 1 << 16)[4:])",
    "serves_by_itself": WIRE
    + "send(['return', ['dict', ['f', ['mine', 0]]], {}])\nwhile True:\n    os.read(3, 1 << 16)\n    send(['return', True, {}])",
}
