"""Programs that try to get out of the sandbox, or to take it down. One that succeeds prints ESCAPED.

`SECRET_FILE`, `PORT`, `PARENT` and `OUTSIDE` are put in by the test: a file to read, a listening server, the trusted
process, a directory to write in.
"""

PREAMBLE = """
import ctypes, os, signal, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)

def attempt(function, *arguments):
    try:
        result = function(*arguments)
    except BaseException as error:
        print("refused", type(error).__name__)
        return None
    print("ESCAPED", function, result)
    return result

def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")

"""

PROCESSES = {
    "fork_bomb": """
while True:
    attempt(os.fork) is None and sys.exit(3)
""",
    "forkpty": "attempt(os.forkpty)",
    "raw_clone": """
attempt(call, 56, 17, 0, 0, 0, 0)
attempt(call, 57)
attempt(call, 58)
attempt(call, 435, 0, 88)
""",
    "clone_new_namespace": "attempt(call, 56, 0x10000 | 0x10000000, 0, 0, 0, 0)",
    "shell": """
import subprocess
os.system('echo hi') == 0 and print('ESCAPED')
attempt(subprocess.run, ['/bin/sh', '-c', 'echo'])
""",
    "exec": """
for path in ('/bin/sh', '/usr/bin/env', sys.executable):
    attempt(os.execv, path, [path])
""",
    "spawn": "attempt(os.posix_spawn, '/bin/true', ['true'], {})",
    "multiprocessing": """
import multiprocessing
attempt(lambda: multiprocessing.get_context('fork').Process(target=print).start())
""",
    "daemon": """
if attempt(os.fork) == 0:
    os.setsid()
    os.fork()
    time.sleep(600)
""",
    "setsid": """
attempt(os.setsid)
attempt(os.setpgid, 0, os.getppid())
""",
    "thread_bomb": """
threading.stack_size(32768)
started = 0
while True:
    try:
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        started += 1
        started > 5000 and print("ESCAPED")
    except RuntimeError:
        os._exit(3)
""",
    "kill_others": """
for pid in (PARENT, os.getppid(), 1, 0, -1):
    pid != os.getpid() and attempt(os.kill, pid, 9)
os._exit(3)
""",
    "kill_by_thread": """
attempt(call, 234, PARENT, PARENT, 9)
attempt(call, 200, PARENT, 9)
attempt(call, 129, PARENT, 9, None)
""",
    "kill_by_pidfd": "attempt(lambda: signal.pidfd_send_signal(os.pidfd_open(PARENT), 9))",
    "kill_by_descriptor": """
import fcntl
attempt(fcntl.fcntl, 0, 8, PARENT)
attempt(fcntl.fcntl, 0, 10, 9)
""",
    "ptrace": """
for pid in (PARENT, os.getppid()):
    attempt(call, 101, 16, pid, 0, 0)
attempt(call, 101, 0, 0, 0, 0)
""",
    "read_memory": """
buffer = ctypes.create_string_buffer(64)
attempt(call, 310, PARENT, buffer, 1, buffer, 1, 0)
""",
    "proc_memory": """
attempt(open, '/proc/%d/mem' % PARENT, 'rb')
attempt(open, '/proc/self/mem', 'r+b')
""",
    "limits_of_others": """
import resource
attempt(resource.prlimit, PARENT, resource.RLIMIT_NOFILE, (3, 3))
""",
    "raise_limits": """
import resource
for one in range(16):
    attempt(resource.setrlimit, one, (1 << 40, 1 << 40)) if resource.getrlimit(one)[1] not in (-1, 1 << 40) else 0
""",
    "odd_name": """
for name in (b') R 1 1 ', b'\\xff\\xfe\\n', b''):
    libc.prctl(15, name)
    time.sleep(0.05)
""",
    "outlive_watcher": "attempt(call, 157, 1, 0, 0, 0, 0)",
    "priority": """
attempt(os.nice, -5)
attempt(os.setpriority, os.PRIO_PROCESS, PARENT, 19)
attempt(os.sched_setaffinity, PARENT, {0})
""",
}

FILES = {
    "environment": "print(os.environ, open('/proc/%d/environ' % PARENT).read())",
    "own_environment": "print(os.environ, ctypes.string_at(ctypes.c_char_p.in_dll(libc, 'environ').value or b'-'))",
    "shadow": """
for path in ('/etc/shadow', '/root/.ssh', '/home', '/var/run/secrets/kubernetes.io'):
    attempt(open, path)
    attempt(os.listdir, path)
""",
    "secret": "print(open(SECRET_FILE).read())",
    "secret_by_descriptor": """
for n in range(256):
    try:
        print(os.read(n, 100), os.lseek(n, 0, 0))
    except OSError: pass
""",
    "secret_by_link": """
try:
    os.symlink(SECRET_FILE, 'a')
except OSError:
    os.link(SECRET_FILE, 'a')
print(open('a').read())
""",
    "dot_dot": """
for up in range(9):
    attempt(open, '../' * up + 'escaped', 'w') if up else 0
""",
    "proc": """
attempt(os.listdir, '/proc')
attempt(os.readlink, '/proc/%d/cwd' % PARENT)
""",
    "sys": "attempt(os.listdir, '/sys')",
    "write_elsewhere": """
for place in ('/', '/etc', '/usr/lib', '/dev/shm', '/var/tmp', '/home', os.path.dirname(os.__file__), OUTSIDE):
    attempt(open, place + '/escaped', 'w')
""",
    "replace_stdlib": """
attempt(open, os.__file__, 'r+')
attempt(os.truncate, os.__file__, 0)
attempt(os.unlink, os.__file__)
attempt(os.rename, os.__file__, 'x')
""",
    "truncate_elsewhere": """
attempt(os.truncate, SECRET_FILE, 0)
attempt(os.open, SECRET_FILE, os.O_TRUNC)
""",
    "devices": """
attempt(os.open, '/dev/vda', 0)
attempt(os.open, '/dev/kmsg', 0)
attempt(os.open, '/dev/tty', 2)
attempt(os.mknod, 'x')
""",
    "set_mode": """
attempt(os.chmod, '.', 0)
attempt(os.chown, '.', 0, 0)
""",
    "files_that_come_and_go": """
end = time.monotonic() + 0.2
while time.monotonic() < end:
    try:
        open('a', 'w').close()
        os.remove('a')
    except OSError:
        pass
""",
    "mkdir": "attempt(os.makedirs, 'a/' * 500)",
    "mount": """
attempt(call, 165, b'tmpfs', b'/tmp', b'tmpfs', 0, None)
attempt(call, 166, b'/tmp', 2)
attempt(call, 428, -100, b'/', 1)
""",
    "chroot": """
attempt(os.chroot, '/tmp')
attempt(call, 155, b'/', b'/')
""",
    "handles": """
buffer = ctypes.create_string_buffer(200)
attempt(call, 303, -100, b'/', buffer, buffer, 0)
attempt(call, 304, 0, buffer, 0)
""",
}

KERNEL = {
    "unshare": """
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000):
    attempt(call, 272, flag)
""",
    "setns": "attempt(call, 308, 0, 0)",
    "become_root": """
attempt(os.setgroups, [0])
attempt(os.setresuid, 0, 0, 0)
attempt(os.setresgid, 0, 0, 0)
""",
    "capabilities": "attempt(libc.capset, 0, 0) if libc.capset(0, 0) == 0 else 0",
    "host_name": "attempt(call, 170, b'x', 1)",
    "clock": "attempt(time.clock_settime, time.CLOCK_REALTIME, 1)",
    "keys": """
attempt(call, 248, b'user', b'a', b'b', 1, -3)
attempt(call, 250, 0, -3, 0)
""",
    "bpf": """
attempt(call, 321, 0, 0, 0)
attempt(call, 298, 0, 0, -1, -1, 0)
attempt(call, 323, 0)
attempt(call, 425, 1, 0)
""",
    "modules": """
attempt(call, 175, 0, 0, 0)
attempt(call, 246, 0, 0, 0, 0)
""",
    "shared_memory": """
attempt(call, 29, 1, 4096, 0o1777)
attempt(call, 68, 1, 0o1777)
attempt(call, 64, 1, 1, 0o1777)
""",
    "memory_file": "attempt(os.memfd_create, 'x')",
    "other_convention": """
import mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex("b814000000cd80c3"))  # getpid by the 32-bit convention
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
print("ESCAPED", ctypes.CFUNCTYPE(ctypes.c_int)(address)())
""",
    "other_numbers": "attempt(call, 0x40000000 | 39)",
}

NETWORK = {
    "loopback": """
import socket
attempt(socket.create_connection, ('127.0.0.1', PORT))
""",
    "dns": """
import socket
attempt(socket.getaddrinfo, 'kubernetes.default', 443)
""",
    "datagram": """
import socket
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT)))
""",
    "listen": """
import socket
attempt(socket.create_server, ('127.0.0.1', 0))
""",
    "unix": """
import socket
attempt(socket.socket, socket.AF_UNIX)
attempt(socket.socketpair, socket.AF_UNIX, socket.SOCK_DGRAM)
""",
    "netlink_and_raw": """
import socket
attempt(socket.socket, 16, 3, 0)
attempt(socket.socket, 17, 3, 0)
""",
    "url": """
import urllib.request
attempt(urllib.request.urlopen, 'http://127.0.0.1:%d' % PORT)
""",
}
