"""A loopback judge in the form of an OpenAI-compatible endpoint, which misbehaves as told.

`server.plan` holds what to do with the next requests, one each: a text (the reply), or one of the functions below.
When it is empty, `server.brain` (request -> reply) answers.
"""

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-very-secret-1234567890"


class Endpoint(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict] = []
        self.keys: list[str | None] = []
        self.plan: list[str | Callable] = []
        self.brain: Callable[[dict], str | Callable] = lambda request: grade(5)
        self.usage: dict | None = {"prompt_tokens": 100, "completion_tokens": 10}
        self.lock = threading.Lock()
        self.released = threading.Event()  # ends what `hang` holds back
        self.num_open = self.most_open = 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.released.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """Say nothing: clients that go away are part of the play."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def log_message(self, *arguments):
        """Say nothing."""

    def do_POST(self):
        server = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/v1/chat/completions":
            return self.answer(404, b'{"error": {"message": "no such page"}}')
        request = json.loads(body)
        with server.lock:
            server.requests.append(request)
            server.keys.append(self.headers.get("Authorization"))
            server.num_open += 1
            server.most_open = max(server.most_open, server.num_open)
            act = server.plan.pop(0) if server.plan else None
        try:
            act = server.brain(request) if act is None else act
            act(self) if callable(act) else self.reply(act)
        finally:
            with server.lock:
                server.num_open -= 1

    def reply(self, text: str, finish_reason: str = "stop") -> None:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
        body = {"object": "chat.completion", "model": "judge-2", "choices": [choice], "usage": self.server.usage}
        self.answer(200, json.dumps(body).encode())

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def grade(score, why: str = "because") -> str:
    return json.dumps({"score": score, "why": why})


def better(word: str) -> str:
    return json.dumps({"better": word, "why": "because"})


def error(status: int, message: str = "trouble", code: str | None = None, **headers: str) -> Callable:
    """Answer with a status; header names with _ for -."""
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    return lambda handler: handler.answer(status, body, {k.replace("_", "-"): v for k, v in headers.items()})


def raw(body: bytes, status: int = 200) -> Callable:
    return lambda handler: handler.answer(status, body)


def hang(handler: Handler) -> None:
    """Say nothing until the end of the test."""
    handler.server.released.wait(20)
    handler.close_connection = True


def drop(handler: Handler) -> None:
    """Close the connection without a word."""
    handler.close_connection = True
    handler.connection.close()


def cut(handler: Handler) -> None:
    """Announce more than is sent."""
    handler.answer(200, b'{"choices": [{"mess', {"Content-Length": "1000"})
    handler.close_connection = True


def length(text: str) -> Callable:
    """A reply that ran into the limit of tokens."""
    return lambda handler: handler.reply(text, finish_reason="length")


def tagged(request: dict, tag: str) -> str | None:
    """What stands between <tag> and </tag> in the question."""
    found = re.search(rf"<{tag}>\n(.*?)\n</{tag}>", request["messages"][-1]["content"], re.S)
    return found and found[1]
