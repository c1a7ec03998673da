"""An OpenAI-compatible server on loopback that grades honestly, and has the faults it is told to have."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "grader-1"


def grade(text):
    """10 if the answer, as it stands between its tags, holds the word that the criteria name."""
    tag = re.search(r"<criteria-(\w+)>", text)[1]
    part = lambda name: re.search(rf"\n<{name}-{tag}>\n(.*?)\n</{name}-{tag}>\n", text, re.DOTALL)[1]  # noqa: E731
    return 10 if part("criteria") in part("answer") else 0


class Server(ThreadingHTTPServer):
    """`faults` are used up, one a request; `requests` and `keys` are what came."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.requests, self.keys = [], [], []
        self.lock = threading.Lock()
        self.meeting = None
        self.reply = lambda score: f'It does.\n{{"score": {score}}}'
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.keys.append(self.headers.get("Authorization"))
            fault = self.server.faults.pop(0) if self.server.faults else None
        if self.server.meeting:
            self.server.meeting.wait(20)
        if fault is None:
            self.answer(200, self.completion(body))
        elif isinstance(fault, int):
            self.answer(fault, {"error": f"for {self.headers.get('Authorization')}"}, {"Retry-After": "7"})
        else:
            getattr(self, fault)(body)

    def completion(self, body, finish="stop"):
        text = self.server.reply(grade(body["messages"][-1]["content"]))
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
        return {"model": MODEL, "system_fingerprint": "fp_1", "choices": [choice]}

    def cut(self, body):
        self.answer(200, self.completion(body, "length"))

    def nonsense(self, body):
        self.answer(200, "<html>welcome</html>")

    def empty(self, body):
        self.answer(200, {"choices": []})

    def slow(self, body):
        time.sleep(1.5)
        with contextlib.suppress(OSError):
            self.answer(200, self.completion(body))

    def drip_head(self, body):
        self.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n ")

    def drip_body(self, body):
        self.send_response(200)
        self.send_header("Content-Length", "40")
        self.end_headers()
        self.drip(40 * b" ")

    def drip(self, data):
        """A byte now and then, each of them in time."""
        with contextlib.suppress(OSError):
            for byte in data:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.1)

    def reset(self, body):
        """In the middle of the body."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices": [')
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def short(self, body):
        """Ends in the middle of the body, without an error of the connection."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices": [')
        self.close_connection = True

    def answer(self, status, content, headers=None):
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serving():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
