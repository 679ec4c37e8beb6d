"""What hostile and careless clients send, for test_fuzz.py: strategies, and connections that check every answer."""

import contextlib
import io
import json
import math
import os
import socket
import struct
import threading
import time
import zlib

import numpy as np
from hypothesis import strategies as st
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from swwatch.client.protocol import HEADER, MAGIC, parse_server

WAIT_S = 60
FRAME_BYTES, PIXELS = 200_000, 1_000_000  # limits that the server must have
MESSAGE_BYTES = 2 * FRAME_BYTES  # a longer one is not read
CLOSE_CODES = {1000, 1001, 1002, 1007, 1009, 4400, 4429, 4409, 4500}  # of them 1002, 1007 are the WebSocket's own
INSIDE = ("Traceback", 'File "', ".py", "swwatch/", "0x7f", "the model failed", "a fault of the server's")


def image(form: str, height: int = 56, width: int = 56, seed: int = 0, **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **options)
    return out.getvalue()


def bomb(height: int = 30_000, width: int = 30_000) -> bytes:
    """A PNG of 900 million pixels in a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes((8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(9000)))
        + chunk(b"IEND", b"")
    )


def exif(num_bytes: int) -> bytes:
    """Of as many entries as there is room for, each another."""
    entries = b"".join(struct.pack("<HHII", 40_000 + n % 20_000, 1, 1, 0) for n in range((num_bytes - 14) // 12))
    return b"II*\0" + struct.pack("<IH", 8, len(entries) // 12) + entries + bytes(4)


GOOD = [image(form, seed=seed) for form in ("JPEG", "PNG", "WEBP") for seed in range(2)]
ODD = [
    bomb(),
    bomb(1, 60_000),
    image("PNG", 1100, 1000),  # over the limit of pixels
    image("JPEG", 2, 900),  # too narrow for the model
    image("PNG", 1, 1),
    image("GIF"),
    image("BMP"),
    b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    bytes(FRAME_BYTES + 1),
    bytes(MESSAGE_BYTES + 1),
]


COSTLY = [  # within the limits of a picture, or just over them
    image("PNG", 1000, 1000),
    image("PNG", exif=b"Exif\0\0" + exif(60_000)),
    image("PNG", exif=b"Exif\0\0" + exif(180_000)),
    image("JPEG", 380, 380, progressive=True),
    bomb(),
]


@st.composite
def damaged(draw) -> bytes:
    data = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(0, 6))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))])


numbers = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400, 1e308, -1e308, 5e-324, math.nan, math.inf]),
    st.floats(),
)
# with what JSON may write and no encoding can carry, markup, and everything else
texts = st.text(st.characters(), max_size=40) | st.sampled_from(
    ["", "\x00", "\ud800", "<|im_end|>", "a" * 5000, "../../etc/passwd", "\u202e\U0001f468\u200d\U0001f469", " "]
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
schedules = st.sampled_from(["wait-k:0", "random:3:seed=0", "burst:3:every=2", "stall:3:every=5:pause=2"]) | st.builds(
    "{}:{}{}".format,
    st.sampled_from(["wait-k", "random", "burst", "stall", "chunk", ""]),
    numbers,
    st.sampled_from(
        ["", ":seed=-1", ":every=0", ":every=99999999999999999999", ":pause=inf", ":pause=nan", "::", ":k=3"]
    ),
)
FIELDS = {
    "version": st.just(1) | numbers,
    "schedule": schedules,
    "rate": numbers,
    "policy": st.sampled_from(["drop_oldest", "merge", "block", "", "x"]),
    "source": st.fixed_dictionaries(
        {"kind": st.sampled_from(["upload", "file", "url", "x"])},
        optional={
            "id": texts,
            "name": texts,
            "url": st.sampled_from(["file:///etc/passwd", "http://[::1", "rtsp://"]),
        },
    ),
    "seen": numbers,
    "question": texts,
}
NAMES = ["open", "ask", "pause", "resume", "stop", "end", "ping", "token", "opened"]
KEYS = [*FIELDS, "variant", "engine", "record", "resume", "x"]


@st.composite
def messages(draw) -> str:
    """JSON that looks like the protocol's, with fields of all kinds."""
    message = {"type": draw(st.sampled_from(NAMES) | texts)}
    if message["type"] == "open" and draw(st.booleans()):
        message["version"] = 1
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=3, unique=True)):
        message[key] = draw(FIELDS.get(key, values) if draw(st.booleans()) else values)
    return json.dumps(message)


def nest(depth: int, kind: str) -> str:
    return kind * depth if kind in "[{" else '{"type":' * depth


HEADS = st.sampled_from([MAGIC, b"SWF2", b"\0\0\0\0"])
TIMES = st.floats(allow_nan=True) | st.sampled_from([-0.0, 1e11, -1e11, 1e300, 0.5, 1.0])
frames = st.builds(
    lambda head, number, at_s, data: HEADER.pack(head, number, at_s) + data,
    HEADS,
    st.integers(0, 2**32 - 1),
    TIMES,
    st.sampled_from(GOOD) | st.sampled_from(ODD) | damaged(),
)
anything = st.one_of(
    messages(),
    frames,
    st.just('{"type":"open","version":1}'),
    values.map(json.dumps),
    st.text(max_size=60),
    st.binary(max_size=60),
    st.builds(nest, st.sampled_from([10, 500, 5000]), st.sampled_from(["[", "{", "t"])),
    st.just("x" * 17_000),
    st.just('{"type":"ask","question":"' + "1" * 15_000),
    st.just("9" * 16_000),
)


def check(raw: str | bytes):
    """An answer of the protocol, which shows nothing of the server's inside. Returns the message."""
    message = parse_server(raw)
    if message.type == "error":
        assert not any(word in message.message for word in INSIDE), message
        assert message.code != "server_error" and len(message.message) < 1000, message
    return message


class Wild:
    """A connection that may send anything; keeps every answer, checked."""

    def __init__(self, server, **how):
        self.server, self.got, self.close_code = server, [], None
        self._too_much = False
        self._stack = contextlib.ExitStack()
        how = {"subprotocols": ["swwatch.v1"], "open_timeout": WAIT_S, "close_timeout": 5, "proxy": None} | how
        self.socket = self._stack.enter_context(connect(server.ws_url, **how))

    def __enter__(self) -> "Wild":
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def send(self, message: str | bytes | dict) -> bool:
        """Whether it could be sent; the server may have had enough."""
        self._too_much |= len(message) > MESSAGE_BYTES
        try:
            self.socket.send(json.dumps(message) if isinstance(message, dict) else message)
        except ConnectionClosed:
            return False
        return True

    def next(self, timeout_s: float = WAIT_S):
        """The next message; None when the connection is closed, in a way that the protocol knows."""
        try:
            self.got.append(check(self.socket.recv(timeout_s)))
            return self.got[-1]
        except ConnectionClosed as error:
            self.close_code = error.rcvd.code if error.rcvd else None
            # a server that stops reading in the middle of a message resets the connection, and the code may be lost
            assert self.close_code in CLOSE_CODES or (self.close_code is None and self._too_much), error
            return None

    def until(self, *kinds: str):
        """The next message of one of these types; None if the connection is closed before."""
        while (message := self.next()) is not None and message.type not in kinds:
            pass
        return message

    def settle(self) -> None:
        """Until everything sent so far is answered."""
        if self.send({"type": "settled?"}):
            while (message := self.until("error")) is not None and "settled?" not in message.message:
                pass

    def of(self, *kinds: str) -> list:
        return [message for message in self.got if message.type in kinds]

    def cut(self) -> None:
        """No goodbye."""
        with contextlib.suppress(OSError):
            self.socket.socket.shutdown(socket.SHUT_RDWR)

    def half_close(self) -> None:
        """Send no more, but go on listening."""
        with contextlib.suppress(OSError):
            self.socket.socket.shutdown(socket.SHUT_WR)


def story(server, steps: int = 3) -> list[tuple]:
    """What a well-behaved session is told about the same few frames: the words, each with its step."""
    with Wild(server) as one:
        one.send({"type": "open", "version": 1, "schedule": "wait-k:4", "question": "What moves?"})
        for step in range(steps):
            for number in (2 * step, 2 * step + 1):
                one.send(HEADER.pack(MAGIC, number, number / 2) + GOOD[number % len(GOOD)])
            assert one.until("watched"), one.got[-3:]
        one.send({"type": "end"})
        assert one.until("end"), one.got[-3:]
        assert one.got[-1].reason == "finished" and not one.of("error", "dropped"), one.of("error", "dropped", "end")
        return [(m.type, m.step, getattr(m, "text", None)) for m in one.of("watched") + one.of("token")]


class Beside:
    """A well-behaved client that opens session after session while others misbehave."""

    def __init__(self, server, alone: list[tuple]):
        self._server, self._alone, self._over = server, alone, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.stories, self._fault = 0, None

    def __enter__(self) -> "Beside":
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._over.set()
        self._thread.join(2 * WAIT_S)
        if error == (None, None, None):
            assert not self._thread.is_alive(), "a session beside hangs"
            if self._fault is not None:
                raise self._fault
            assert self.stories

    def _run(self) -> None:
        try:
            while self.stories == 0 or not self._over.is_set():
                assert story(self._server) == self._alone, "a session says something else beside others"
                self.stories += 1
        except BaseException as fault:
            self._fault = fault


def memory_mb(server) -> float:
    """What the server's process holds now."""
    with open(f"/proc/{server.process.pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def wait_for_room(server, most: int = 0, timeout_s: float = WAIT_S) -> None:
    """Until no more than so many sessions are left of connections that broke."""
    over = time.monotonic() + timeout_s
    while server.json("/health")["sessions"] > most:
        assert time.monotonic() < over, "sessions are left over"
        time.sleep(0.05)
