"""A real server process on a free loopback port, and a real WebSocket client."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from swwatch.client.protocol import HEADER, MAGIC, Message, parse_server

RUN = """
import sys
from swwatch.cli import run
from swwatch.serve.command import main
sys.exit(run(main, sys.argv[1:]))
"""
WAIT_S = 60  # a busy machine is no failure


class ServerProcess:
    """`swwatch serve` in a process of its own. Attributes: url, ws_url, process, log (path), address (as printed)."""

    def __init__(self, folder: Path, *flags: str, first: str = "", program: list[str] | None = None, **how):
        """
        Args:
            first: code that runs before it.
            program: in place of the checkout's `swwatch serve`.
            how: of Popen: cwd, env.
        """
        self.log = folder / "log.jsonl"
        environment = how.pop("env", os.environ) | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        environment.pop("SWWATCH_TOKEN", None)
        self.process = subprocess.Popen(
            [*(program or [sys.executable, "-c", first + RUN]), "--port", "0", "--device", "cpu", *flags],
            **how,
            stdout=subprocess.PIPE,
            stderr=self.log.open("wb"),
            env=environment,
            text=True,
        )
        self.address = self.url = None

    def wait(self) -> "ServerProcess":
        """Until it serves."""
        if self.address is None:
            for line in self.process.stdout:
                if line.startswith("serving "):
                    self.address = line.split(" at ")[1].strip()
                    break
            assert self.address, f"the server did not start:\n{self.log.read_text()}"
            self.url = self.address.split("#")[0].rstrip("/")
            self.ws_url = self.url.replace("http", "ws", 1) + "/api/live"
        return self

    def lines(self) -> list[dict]:
        """What it has logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def get(self, path: str, method: str = "GET", data: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """An HTTP request -> (status, body)."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, data, named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def json(self, path: str, **how) -> dict:
        status, body = self.get(path, **how)
        assert status < 300, body
        return json.loads(body)

    def upload(self, data: bytes, **headers: str) -> tuple[int, dict]:
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.mp4"\r\n\r\n'
        kind = {"content_type": "multipart/form-data; boundary=b"}
        status, body = self.get("/api/uploads", "POST", head + data + b"\r\n--b--\r\n", **kind, **headers)
        return status, json.loads(body)

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Ask it to end, once it has started; the exit code."""
        if self.process.poll() is None:
            self.wait().process.send_signal(how)
        try:
            return self.process.wait(WAIT_S)
        finally:
            self.process.kill()
            self.process.stdout.close()


class Client:
    """A WebSocket connection that keeps every message it got, checked against the protocol."""

    def __init__(self, server: ServerProcess, *, open: dict | None = None, url: str | None = None, **how):
        how.setdefault("subprotocols", ["swwatch.v1"])
        self._stack = ExitStack()
        address = url or server.ws_url
        self.socket = self._stack.enter_context(
            connect(address, open_timeout=WAIT_S, close_timeout=5, proxy=None, **how)
        )
        self.got: list[Message] = []
        if open is not None:
            self.send(type="open", version=1, **open)

    def close(self) -> None:
        self._stack.close()

    def send(self, **message) -> None:
        self.socket.send(json.dumps(message))

    def frame(self, number: int, timestamp_s: float | None = None, data: bytes | None = None) -> None:
        timestamp_s = number / 2 if timestamp_s is None else timestamp_s
        self.socket.send(HEADER.pack(MAGIC, number, timestamp_s) + (picture(number) if data is None else data))

    def next(self, timeout_s: float = WAIT_S) -> Message:
        message = parse_server(self.socket.recv(timeout_s))
        self.got.append(message)
        return message

    def until(self, *kinds: str, timeout_s: float = WAIT_S) -> Message:
        """The next message of one of these types; an end or a fatal error that nobody waits for is a failure."""
        over = time.monotonic() + timeout_s
        while True:
            message = self.next(max(0.01, over - time.monotonic()))
            if message.type in kinds:
                return message
            assert message.type != "end" and not getattr(message, "fatal", False), message

    def of(self, *kinds: str) -> list[Message]:
        return [message for message in self.got if message.type in kinds]

    def closed(self) -> int:
        """Read to the close; its code."""
        try:
            while True:
                self.next()
        except ConnectionClosed as error:
            return error.rcvd.code if error.rcvd else 1006


def picture(number: int = 0, height: int = 56, width: int = 56, form: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()
