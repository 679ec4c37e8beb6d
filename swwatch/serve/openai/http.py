"""OpenAI's HTTP form: models, files and chat completions, in one piece or as server-sent events."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from swwatch.client.protocol import ProtocolError, Token, Upload
from swwatch.engine.door import pace_of
from swwatch.rules.schedule import seconds_of_step
from swwatch.serve.door import while_there
from swwatch.serve.files import Bodies
from swwatch.serve.openai import request as asking
from swwatch.serve.openai.answer import Answer, AnswerConnection
from swwatch.serve.openai.messages import Conversation, Reader
from swwatch.serve.openai.request import at
from swwatch.serve.refusals import error_body
from swwatch.serve.sources import PictureReader, SessionOptions
from swwatch.serve.stages import Checkpoint


def add_openai(app: FastAPI, server) -> None:
    """The addresses under /v1. Args: server: an app.Server."""
    chat, began_s = ChatCompletions(server), int(time.time())

    def model(checkpoint: Checkpoint) -> dict:
        about = {"id": checkpoint.variant, "object": "model", "created": began_s, "owned_by": "swwatch"}
        return about | {"root": checkpoint.name, "schedule": pace_of(checkpoint.loaded.settings)}

    @app.get("/v1/models")
    async def models() -> dict:
        """What can be asked, in OpenAI's form."""
        return {"object": "list", "data": [model(one) for one in chat.stages.checkpoints]}

    @app.get("/v1/models/{name}")
    async def one_model(name: str) -> dict:
        """One of them."""
        return model(chat.stages.named(name))

    @app.post("/v1/files")
    async def upload(request: Request) -> dict:
        """Send a video as the form's field `file`; a chat completion may then name its id."""
        name, size = await server.sessions.uploads.receive_request(request)
        about = {"filename": "video", "purpose": "user_data", "status": "processed"}
        return {"id": name, "object": "file", "bytes": size, "created_at": int(time.time()), **about}

    @app.delete("/v1/files/{name}")
    async def delete(name: str) -> dict:
        """Remove one."""
        server.sessions.uploads.delete(name)
        return {"id": name, "object": "file", "deleted": True}

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(request: Request) -> Response:
        """Narrate a video, in OpenAI's form; see docs/serve.md."""
        return await chat.complete(request)


class ChatCompletions:
    """Chat completions of one server."""

    def __init__(self, server):
        self.limits, self.sessions, self.stages = server.limits, server.sessions, server.sessions.stages
        self._bodies = Bodies(server.limits)

    async def complete(self, request: Request) -> Response:
        """The answer, once its first words are there. Raises ProtocolError."""
        async with self._bodies.read(request) as body:
            wanted = await asyncio.to_thread(asking.parse, body)
            checkpoint = self.stages.named(wanted.model)
            fps = checkpoint.loaded.settings.fps
            reader = Reader(self.limits, self.sessions.folder, wanted.fps or fps)
            conversation = await asyncio.to_thread(reader.read, wanted.messages)
        with at("messages", unless_named=True):  # the video, or words that cannot be
            answer = await self._open(wanted, conversation, checkpoint)
        streams = False
        try:
            form = CompletionBody(answer, wanted, num_text(checkpoint, conversation, answer), seconds_of_step(fps))
            pieces = answer.pieces()
            with at("messages", unless_named=True):
                first = await while_there(request, anext(pieces, None))
            if wanted.stream:
                streams = True
                return Stream(answer, form.events(first, pieces))
            return JSONResponse(await while_there(request, form.whole(first, pieces)))
        finally:
            if not streams:
                answer.close()

    async def _open(self, wanted: asking.Request, conversation: Conversation, checkpoint: Checkpoint) -> Answer:
        settings, uploads, stored = checkpoint.loaded.settings, self.sessions.uploads, None
        video, conversation.video = (
            conversation.video,
            None,
        )  # the bytes of a file are held no longer than it takes to store them
        with at("schedule"):
            if wanted.schedule is not None:
                checkpoint.check_schedule(wanted.schedule)
        with at("temperature"):
            options = {
                "choose": wanted.choose(settings.own_choose),
                "system": conversation.system,
                "before": conversation.before,
            }
        if isinstance(video, bytes):
            stored = await uploads.store(video)
            video = Upload(kind="upload", id=stored)
        try:
            source = PictureReader(conversation.pictures, self.limits.max_pixels) if conversation.pictures else None
            connection = AnswerConnection()
            opening = conversation.open(wanted, checkpoint.variant, video)
            session, _ = await self.sessions.open(opening, connection, SessionOptions(source, True, options))
        finally:
            if stored is not None:
                uploads.delete(stored)  # when the session ends
        limit = min(wanted.limit or self.limits.max_tokens, self.limits.max_tokens)
        return Answer(session, connection, not pace_of(settings), limit, list(wanted.stop))


def num_text(checkpoint: Checkpoint, conversation: Conversation, answer: Answer) -> int:
    """Tokens of what was asked in words."""
    words = (answer.session.opened.question, conversation.system or "", *(words for _, words in conversation.before))
    return sum(len(checkpoint.loaded.tokenizer.encode(text, add_special_tokens=False)) for text in words)


class CompletionBody:
    """An answer as OpenAI has it. What is ours stands under `swwatch`."""

    def __init__(self, answer: Answer, wanted: asking.Request, num_text: int, step_s: float):
        self._answer, self._num_text, self._step_s = answer, num_text, step_s
        self._usage = wanted.stream_options is not None and wanted.stream_options.include_usage
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": wanted.model}

    async def whole(self, first: tuple[str, Token] | None, pieces: AsyncIterator) -> dict:
        """In one piece."""
        said: list[dict] = []
        async for text, token in _all(first, pieces):
            seen = self._seen(token)
            if said and said[-1]["seen_s"] == seen["seen_s"]:
                said[-1]["text"] += text
            else:
                said.append({"text": text, **seen})
        message = {"role": "assistant", "content": "".join(one["text"] for one in said), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._answer.finish}
        about = {"object": "chat.completion", "choices": [choice], "usage": self._used()}
        return self._head | about | {"swwatch": self._about() | {"said": said}}

    async def events(self, first: tuple[str, Token] | None, pieces: AsyncIterator) -> AsyncIterator[str]:
        """As server-sent events; an error is the last of them."""
        try:
            yield self._chunk({"role": "assistant", "content": ""}, swwatch=self._about())
            async for text, token in _all(first, pieces):
                yield self._chunk({"content": text}, swwatch=self._seen(token))
            yield self._chunk({}, finish=self._answer.finish)
            if self._usage:
                yield _event(self._head | {"object": "chat.completion.chunk", "choices": [], "usage": self._used()})
        except ProtocolError as error:
            yield _event(error_body(error.code, error.message, error.param))
        yield "data: [DONE]\n\n"

    def _chunk(self, delta: dict, finish: str | None = None, **ours: dict) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event(self._head | {"object": "chat.completion.chunk", "choices": [choice]} | ours)

    def _about(self) -> dict:
        opened = self._answer.session.opened
        return {name: getattr(opened, name) for name in ("variant", "engine", "schedule", "question", "fps")}

    def _seen(self, token: Token) -> dict:
        """Of a token: the seconds of video that it could see, and when it was said on the stream's clock."""
        seen_s = round((token.newest_visible_step + 1) * self._step_s, 6)
        return {"seen_s": seen_s, "step": token.step, "t_frame_s": token.t_frame_s, "t_emit_s": token.t_emit_s}

    def _used(self) -> dict:
        video, said = self._answer.session.telling.num_video, self._answer.num_tokens
        num_prompt = video + self._num_text
        details = {"video_tokens": video, "text_tokens": self._num_text, "cached_tokens": 0}
        counts = {"prompt_tokens": num_prompt, "completion_tokens": said, "total_tokens": num_prompt + said}
        return counts | {"prompt_tokens_details": details}


class Stream(StreamingResponse):
    """Server-sent events; the session ends with them, or where the client leaves."""

    def __init__(self, answer: Answer, events: AsyncIterator[str]):
        super().__init__(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.close()


async def _all(first: tuple[str, Token] | None, rest: AsyncIterator) -> AsyncIterator[tuple[str, Token]]:
    if first is not None:
        yield first
        async for piece in rest:
            yield piece


def _event(what: dict) -> str:
    return f"data: {json.dumps(what, ensure_ascii=False)}\n\n"
