"""A server on 127.0.0.1 that answers as an OpenAI-compatible endpoint does."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Verdicts = Callable[[str], str | None]


class Server(ThreadingHTTPServer):
    """What is said to a message, and every request with its headers."""

    daemon_threads = True

    def __init__(self, verdict: Verdicts) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.verdict = verdict
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.failures: list[tuple[int, bytes]] = []  # the next answers, before any verdict

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{self.origin}/v1"

    @property
    def prompts(self) -> list[str]:
        return [request["messages"][0]["content"] for request in self.requests]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"path": self.path, **body})
        self.server.headers.append(dict(self.headers))
        if self.server.failures:
            self._send(*self.server.failures.pop(0))
            return
        message = {
            "role": "assistant",
            "content": self.server.verdict(body["messages"][0]["content"]),
        }
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"object": "chat.completion", "model": body["model"], "choices": [choice]}
        self._send(200, json.dumps(answer).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if 300 <= status < 400:
            self.send_header("Location", self.server.origin)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(verdict: Verdicts) -> Iterator[Server]:
    server = Server(verdict)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
