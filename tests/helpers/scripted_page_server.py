"""A server of the live page that says what it is told to: the page's files, /api/info, and a scripted session."""

import asyncio
import http
import json
import mimetypes
import struct
import threading
from pathlib import Path

from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.http11 import Response

PAGE = Path(__file__).parents[2] / "swwatch/serve/page"
# stricter than need be: what works under it works under the server's own
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src blob:; connect-src 'self'"
TEXT = "The video shows a red circle moving left, a blue square moving up, a green triangle moving right."
INFO = {
    "version": 1,
    "variants": ["group", "interleave", "livecc"],
    "engines": {"serial": "watch a step, then speak", "fused": "both at once"},
    "schedule": "wait-k:3",
    "question": "What is the scene and activity shown in this video?",
    "model": "toy",
    "token_needed": False,
    "limits": {"question_chars": 1000},
    "sources": ["frames", "upload", "file", "url"],
    "checkpoints": [
        *({"name": name, "variant": name, "schedule": "wait-k:3"} for name in ("group", "interleave")),
        {"name": "livecc", "variant": "livecc", "schedule": "", "question": "Commentate.", "engines": ["serial"]},
    ],
    "notes": [],
}


class ScriptedServer:
    """Speaks three words of TEXT after every second frame; livecc in turns, of which every third is silent; where
    `decides` is set, it decides to be silent at every second step, and thinks at the others: a note is two of them. Of
    step 1 a half is looked at, of step 2 nothing.

    Attributes:
        got: every text message that came in; `frames`: (number, timestamp, first bytes) of every frame.
        slow: seconds before a frame is acknowledged.
        break_after: frames after which the socket is broken off, once.
        token: when set, what clients must show.
        full: resumed sessions that are refused, because their server is starting again.
    """

    def __init__(self):
        self.got: list[dict] = []
        self.frames: list[tuple[int, float, bytes]] = []
        self.slow, self.break_after, self.token, self.decides = 0.0, 0, None, False
        self.full = 0
        self.sessions: dict[str, Session] = {}
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.thread.start()
        assert self.ready.wait(30)

    async def _serve(self) -> None:
        self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()
        choose = {"subprotocols": ["swwatch.v1"], "process_request": self._http, "max_size": None}
        async with serve(self._live, "127.0.0.1", 0, **choose) as server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            self.ready.set()
            await self.over.wait()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join(30)

    def _http(self, _, request):
        path = request.path.split("?")[0]
        if path == "/api/live":
            return None
        if path.startswith("/api/"):
            if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
                return _response(401, b"{}", "application/json")
            body = {"/api/info": INFO, "/api/files": {"files": ["street.mp4"]}}.get(path)
            return _response(200 if body else 404, json.dumps(body).encode(), "application/json")
        file = PAGE / ("index.html" if path == "/" else path.removeprefix("/page/"))
        if not file.is_file():
            return _response(404, b"", "text/plain")
        return _response(200, file.read_bytes(), mimetypes.guess_type(file.name)[0] or "text/plain")

    async def _live(self, socket) -> None:
        session = None
        async for message in socket:
            if isinstance(message, bytes):
                await self._frame(socket, session, message)
                continue
            message = json.loads(message)
            self.got.append(message)
            if message["type"] == "open":
                if "resume" in message and self.full:
                    self.full -= 1
                    told = {"type": "error", "code": "full", "message": "it starts again", "fatal": True}
                    await socket.send(json.dumps(told))
                    return await socket.close(4429)
                session = self.sessions.get(message.get("resume")) or Session(message, len(self.sessions))
                session.decides = self.decides
                self.sessions[session.name] = session
                await session.attach(socket, message)
            elif message["type"] == "ask":
                await session.tell(type="asked", step=session.steps, question=message["question"], t_s=session.now)
            elif message["type"] in ("pause", "resume"):
                session.silent = message["type"] == "pause"
            elif message["type"] in ("end", "stop"):
                await session.finish("finished" if message["type"] == "end" else "stopped")

    async def _frame(self, socket, session, message: bytes) -> None:
        magic, number, timestamp = struct.unpack(">4sId", message[:16])
        assert magic == b"SWF1"
        self.frames.append((number, timestamp, message[16:18]))
        if self.break_after and len(self.frames) >= self.break_after:
            self.break_after = 0
            socket.transport.abort()
            return
        await asyncio.sleep(self.slow)
        await socket.send(
            json.dumps(
                {"type": "ack", "frame": number, "taken": True, "dropped": 0, "queued": 0, "reason": "", "frames": 1}
            )
        )
        await session.frame(timestamp)


class Session:
    """What one client is told, in order, and again after a broken connection."""

    def __init__(self, open: dict, number: int):
        self.name, self.open = f"session-{number}", open
        self.words = [" " * (i > 0) + word for i, word in enumerate(TEXT.split())]
        self.told: list[dict] = []
        self.frames = self.steps = self.spoken = 0
        self.silent, self.now, self.zero = False, 0.0, None

    async def attach(self, socket, message: dict) -> None:
        self.socket, resumed = socket, bool(message.get("resume"))
        opened = {"type": "opened", "session": self.name, "variant": self.open["variant"], "missed": 0, "grace_s": 20}
        opened |= {"engine": self.open["engine"] or "serial", "why": "asked for", "schedule": "wait-k:3"}
        opened |= {"question": self.open["question"], "rate": 2.0, "limits": {}, "resumed": resumed, "recording": None}
        await socket.send(json.dumps(opened))
        for event in self.told[message.get("seen", -1) + 1 :]:
            await socket.send(json.dumps(event))

    async def tell(self, **event) -> None:
        self.told.append(event | {"n": len(self.told)})
        await self.socket.send(json.dumps(self.told[-1]))

    async def frame(self, timestamp: float) -> None:
        self.zero = timestamp if self.zero is None else self.zero
        self.now, self.frames = timestamp - self.zero, self.frames + 1
        if self.frames % 2:
            return
        step, self.steps = self.steps, self.steps + 1
        kept = {1: [0, 3], 2: []}.get(step)
        seen = {"grid": None if kept is None else [2, 2], "kept": kept}
        await self.tell(type="watched", step=step, arrival_s=self.now, t_s=self.now + 0.1, **seen)
        if self.open["variant"] == "livecc":
            await self.take_turn(step)
        elif self.decides and step % 2:
            await self.tell(type="decided", step=step, tokens=0, t_s=self.now + 0.1, why={"not_yet": 0.9})
        elif not self.silent:
            if self.decides:
                seen = {"newest_visible_step": step, "t_frame_s": self.now, "t_emit_s": self.now + 0.1}
                await self.tell(type="thought", text=f" thought {step}", begins=step % 4 == 0, step=step, **seen)
                over = {"start_s": step, "end_s": step + 1, "t_s": self.now + 0.1, "text": ""}
                await self.tell(type="turn", turn=step, thought=True, wrong_end=None, **over)
            await self.speak(3, step)
        stats = {"frames_in": self.frames, "frames_dropped": 0, "steps_watched": self.steps, "steps_queued": 0}
        stats |= {"tokens": self.spoken, "tokens_per_s": 3.0, "lag_s": 0.2, "frame_rate": 2.0}
        await self.socket.send(json.dumps({"type": "stats", **stats}))

    async def speak(self, count: int, step: int) -> None:
        for _ in range(count):
            await self.say(self.words[self.spoken % len(self.words)], step)
            self.spoken += 1

    async def say(self, text: str, step: int) -> None:
        seen = {"step": step, "newest_visible_step": step, "t_frame_s": self.now, "t_emit_s": self.now + 0.2}
        await self.tell(type="token", text=text, index=self.spoken, lag_s=0.2, **seen)

    async def take_turn(self, step: int) -> None:
        said, seconds = self.spoken, {"start_s": step, "end_s": step + 1, "t_s": self.now + 0.3}
        if step % 3 == 0:
            await self.speak(3, step)
        for dots in [" ..."] if step % 2 else [" ", ".", ".", "."]:  # as one tokenizer or another spells them
            await self.say(dots, step)
        text = "".join(self.words[said : self.spoken]).strip()
        await self.tell(type="turn", turn=step, text=text, **seconds)

    async def finish(self, reason: str) -> None:
        if reason == "finished":
            await self.speak(max(0, len(self.words) - self.spoken), max(0, self.steps - 1))
        await self.tell(type="end", reason=reason, tokens=self.spoken, recording=None)
        await self.socket.close(1000)


def _response(status: int, body: bytes, kind: str) -> Response:
    if kind.endswith("javascript"):
        kind = "text/javascript"
    headers = Headers({"Content-Type": kind, "Content-Length": str(len(body)), "Content-Security-Policy": POLICY})
    return Response(status, http.HTTPStatus(status).phrase, headers, body)
