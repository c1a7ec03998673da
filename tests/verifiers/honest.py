"""Programs with nothing bad in mind: scripts with what they read and write, and functions with tests they pass."""

# ruff: noqa: E501

SCRIPTS = {
    "input": ("print(sum(map(int, input().split())))\nprint(repr(input()))", "1 2\nü€\n", "3\n'ü€'\n"),
    "all of stdin": (
        "import sys\nprint(len(sys.stdin.read()), sys.stdin.buffer.read())",
        "x" * 300_000,
        "300000 b''\n",
    ),
    "bytes": ("import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())", "a\nb", "a\nb"),
    "main": ("def main():\n    print(__name__)\nif __name__ == '__main__':\n    main()", "", "__main__\n"),
    "exit": ("print(1)\nexit()", "", "1\n"),
    "sys.exit": ("import sys\nprint(1)\nsys.exit(0)", "", "1\n"),
    "deep recursion": (
        """
import sys, threading
sys.setrecursionlimit(10**6)
threading.stack_size(1 << 26)
def depth(n):
    return n and depth(n - 1) + 1
thread = threading.Thread(target=lambda: print(depth(20000)))
thread.start()
""",
        "",
        "20000\n",
    ),
    "threads": (
        """
from queue import Queue
import threading
queue = Queue()
threads = [threading.Thread(target=queue.put, args=(n,)) for n in range(30)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(sorted(queue.get() for _ in threads) == list(range(30)))
""",
        "",
        "True\n",
    ),
    "modules": (
        """
import collections, decimal, fractions, functools, heapq, itertools, math, random, re, string, datetime, json
from dataclasses import dataclass
@dataclass
class P:
    x: int
print(P(1), decimal.Decimal(1) / 4)
""",
        "",
        "P(x=1) 0.25\n",
    ),
    "memory": ("print(len(bytearray(60 << 20)))", "", "62914560\n"),
    "signals": (
        """
import signal
signal.signal(signal.SIGALRM, lambda *_: print('rang'))
signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.pause()
""",
        "",
        "rang\n",
    ),
    "at exit": ("import atexit\natexit.register(print, 'bye')\nprint('hi')", "", "hi\nbye\n"),
    "big numbers": ("import math\nprint(math.factorial(1000) % 997, 2**64 % 1009)", "", f"0 {2**64 % 1009}\n"),
    "random bytes": ("import os\nprint(len(os.urandom(8)))", "", "8\n"),
}

# Where no file can be opened, they fail.
WITH_FILES = {
    "module": "import asyncio, sqlite3, unittest, concurrent.futures, xml.dom\nprint('ok')",
    "asyncio": "import asyncio\nasync def f():\n    return 'ok'\nprint(asyncio.run(f()))",
    "executor": "from concurrent.futures import ThreadPoolExecutor as E\nprint(E(4).submit(lambda: 'ok').result())",
    "file": "open('a', 'w').write('ok')\nimport os\nos.rename('a', 'b')\nprint(open('b').read())\nos.remove('b')",
    "temporary": "from tempfile import *\nf = TemporaryFile('w+')\nf.write('ok')\nf.seek(0)\nprint(f.read())",
    "null": "open('/dev/null', 'w').write('x')\nprint('ok')",
}

PROGRAMS = {
    "mutates its argument": ("def f(a): a.sort()", ["a = [3, 1]\nassert f(a) is None\nassert a == [1, 3]"]),
    "sees a copy": ("def f(a): a = a + [1]", ["a = [3]\nf(a)\nassert a == [3]"]),
    "dict and set changed": ("def f(d, s):\n    d['x'] = 1\n    s.clear()", ["d, s = {}, {1}\nf(d, s)\nassert d == {'x': 1} and s == set()"]),
    "tuples and sets": ("def f(x): return (x, {x}, frozenset([x]), {x: [x]})", ["assert f(1) == (1, {1}, frozenset({1}), {1: [1]})"]),
    "exact types": ("def f(): return [True, 1, 1.0, '1', b'1', None, 1j]", ["assert list(map(type, f())) == [bool, int, float, str, bytes, type(None), complex]"]),
    "subclasses are plain": (
        "from collections import *\nfrom enum import IntEnum\nP = namedtuple('P', 'x')\nclass E(IntEnum):\n    A = 7\n"
        "def f(): return P(1), E.A, defaultdict(int, a=1), OrderedDict(b=2), Counter('aab'), deque([1])",
        ["from collections import Counter, deque\nassert f() == ((1,), 7, {'a': 1}, {'b': 2}, Counter('aab'), deque([1]))"],
    ),
    "numbers": (
        "from decimal import *\nfrom fractions import *\ndef f(): return Decimal('0.10'), Fraction(1, 3), 10**5000, -2**70, range(9), float('inf')",
        ["from decimal import *\nfrom fractions import *\nassert f() == (Decimal('0.1'), Fraction(1, 3), 10**5000, -2**70, range(9), math.inf)"],
    ),
    "dates": ("from datetime import *\ndef f(d): return d + timedelta(1)", ["from datetime import date\nassert f(date(2024, 2, 28)) == date(2024, 2, 29)"]),
    "text": ("def f(s): return s[::-1]", ["assert f('añ\\x00\\ud800') == '\\ud800\\x00ña'"]),
    "exceptions": (
        "class Short(ValueError): pass\ndef f(s):\n    if not s: raise Short('empty')\n    return s[9]",
        ["try:\n    f('')\nexcept Short as e:\n    assert str(e) == 'empty'\nelse:\n    assert False",
         "try:\n    f('')\n    assert False\nexcept ValueError: pass", "try:\n    f('a')\n    assert False\nexcept IndexError: pass"],
    ),
    "functions in": ("def f(g, x): return [g(y) for y in x]", ["assert f(lambda y: y + 1, [1]) == [2]", "assert f(str.upper, 'ab') == ['A', 'B']", "assert f(len, ['a']) == [1]", "assert f(math.floor, [1.5]) == [1]"]),
    "functions out": ("def f(n): return lambda x: x + n", ["assert f(2)(3) == 5"]),
    "a callback of a callback": ("def f(g): return g(lambda x: x * 2)", ["assert f(lambda h: h(4) + 1) == 9"]),
    "generators": ("def f(n): yield from range(n)", ["assert list(f(3)) == [0, 1, 2]", "assert next(f(3)) == 0 and sum(f(4)) == 6"]),
    "a class": (
        "class Stack:\n    kind = 's'\n    def __init__(self, *x): self.x = list(x)\n    def push(self, y): self.x.append(y); return self\n"
        "    def __len__(self): return len(self.x)\n    def __getitem__(self, n): return self.x[n]\n    def __str__(self): return '|'.join(self.x)\n"
        "    def __eq__(self, other): return self.x == other.x\n    def __add__(self, other): return Stack(*self.x, *other.x)",
        ["s = Stack('a')\nassert s.push('b') is s and len(s) == 2 and s[-1] == 'b' and str(s) == f'{s}' == 'a|b' and list(s) == ['a', 'b']",
         "s.x = ['c']\nassert s.x == ['c'] and s.kind == Stack.kind == 's' and isinstance(s, Stack) and not isinstance(1, Stack)",
         "assert Stack('a') == Stack('a') != Stack('b') and (Stack('a') + Stack('b')).x == ['a', 'b'] and 'a' in Stack('a')"],
    ),
    "LeetCode's way": ("class Solution:\n    def twoSum(self, a, t): return [0, 1]", ["assert Solution().twoSum([2, 7], 9) == [0, 1]"]),
    "HumanEval's way": ("def f(x): return x + 1", ["def check(candidate):\n    assert candidate(1) == 2\ncheck(f)"]),
    "constants": ("LIMIT = 10\n_x = [1, 2]", ["assert LIMIT == 10 and _x == [1, 2]"]),
    "state": ("n = 0\ndef f():\n    global n\n    n += 1\n    return n", ["assert f() == 1", "assert f() == 2"]),
    "its own main is not run": ("def f(): return 1\nif __name__ == '__main__':\n    f(input())", ["assert f() == 1"]),
    "prints": ("def f():\n    print('x' * 10**6)\n    return 1\nf()", ["assert f() == 1"]),
    "threads": ("import threading\ndef f():\n    r = []\n    t = threading.Thread(target=r.append, args=(1,))\n    t.start()\n    t.join()\n    return r", ["assert f() == [1]"]),
    "modules unimported": ("def f(x): return x / 3", ["assert math.isclose(f(1), 0.3333333333333)", "assert itertools.count and f(3) == 1"]),
    "large data": ("def f(x): return x[::-1]", ["x = list(range(100_000))\nassert f(x) == x[::-1]"]),
    "named and default": ("def f(a, *b, c=1, **d): return [a, b, c, d]", ["assert f(1, 2, c=3, e=4) == [1, (2,), 3, {'e': 4}]"]),
}  # fmt: skip
