"""Programs that use up what there is, never end, flood or crash; they begin as those in `hostile` do."""

MEMORY = {
    "list": """
kept = []
while True:
    kept.append(bytearray(1 << 20))
""",
    "one_block": "bytearray(1 << 40)",
    "string": """
text = 'x'
while True:
    text += text
""",
    "mapping": """
import mmap
kept = []
while True:
    kept.append(mmap.mmap(-1, 1 << 22))
    kept[-1].write(b'x' * (1 << 22))
""",
    "dict": """
kept = {}
while True:
    kept[len(kept)] = str(len(kept)) * 100
""",
    "in_threads": """
import _thread  # threading waits for ever for a thread that dies of memory before it has begun
def eat():
    kept = []
    while True:
        kept.append(b'x' * 100_000)
for _ in range(8):
    _thread.start_new_thread(eat, ())
eat()
""",
    "zip_bomb": """
import zlib
bomb = zlib.compress(bytes(200 << 20))
zlib.decompress(bomb) and [zlib.decompress(bomb) for _ in range(9)]
""",
    "huge_file": """
with open('a', 'wb') as file:
    while True:
        file.write(bytes(1 << 20))
""",
    "many_files": """
for n in range(10**6):
    with open(str(n), 'wb') as file:
        file.write(bytes(1 << 20))
""",
    "many_descriptors": """
kept = []
while True:
    kept.append(os.pipe())
""",
}

ENDLESS = {
    "sleep": "time.sleep(3600)",
    "busy": """
while True:
    pass
""",
    "ignore_signals": """
for n in range(1, 65):
    try:
        signal.signal(n, signal.SIG_IGN)
    except (OSError, ValueError): pass
time.sleep(3600)
""",
    "stop_itself": """
os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(3600)
""",
    "huge_number": "9 ** 9 ** 9",
    "regex_bomb": """
import re
re.match('(a+)+b', 'a' * 60 + 'c')
""",
    "generator": """
import itertools
sum(itertools.count())
""",
    "swallow_everything": """
while True:
    try:
        while True: pass
    except BaseException: pass
""",
    "lock": "threading.Lock().acquire() and (lock := threading.Lock()) and lock.acquire() and lock.acquire()",
    "thread_that_stays": "threading.Thread(target=time.sleep, args=(3600,)).start()",
    "at_exit": """
import atexit
atexit.register(time.sleep, 3600)
""",
}

FLOODS = {
    "stdout": """
while True:
    print('x' * 1000)
""",
    "stderr": """
while True:
    os.write(2, b'x' * 1000)
""",
    "one_line": """
while True:
    sys.stdout.write('x')
""",
}

CRASHES = {
    "null": "ctypes.string_at(0)",
    "abort": "os.abort()",
    "recursion": """
sys.setrecursionlimit(10**9)
def deep(n):
    return deep(n + 1)
deep(0)
""",
    "recursion_in_c": """
sys.setrecursionlimit(10**9)
one, two = [], []
for _ in range(10**6):
    one, two = [one], [two]
one == two
""",
    "deep_json": """
import json
json.loads('[' * 10**6)
""",
    "deep_source": """
compile('(' * 10**5 + ')' * 10**5, 'x', 'exec')
eval('-' * 10**6 + '1')
""",
    "code_object": "exec((lambda: 0).__code__.replace(co_code=b'\\x64\\xff' * 50, co_consts=()))",
    "system_exit": "raise SystemExit(7)",
    "system_exit_text": "raise SystemExit('gone')",
    "keyboard_interrupt": "raise KeyboardInterrupt",
    "base_exception": """
class Mine(BaseException):
    def __str__(self): raise self
raise Mine
""",
    "hook": """
sys.excepthook = None
sys.stderr = None
raise ValueError
""",
    "no_streams": """
os.closerange(0, 1000)
print(1)
""",
    "every_descriptor": """
for n in range(3, 1024):
    try:
        os.write(n, b'{"status": 0, "reason": ""}')
        print('ESCAPED', n)
    except OSError: pass
sys.exit(3)
""",
    "no_exit": """
os._exit = sys.exit = print
sys.flags = sys.modules = None
raise ValueError
""",
    "stdin_forever": """
while True:
    input()
""",
}
