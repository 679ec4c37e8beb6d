"""A WebSocket in OpenAI's realtime form: a session of ours, whose messages become events and the other way round.

The model speaks by itself, as pictures come. A response lasts until it is cancelled, a question takes effect, a chat
turn ends, or the session does.
"""

import json
import secrets
import time

from pydantic import Field

from swwatch.client import protocol
from swwatch.client.protocol import MAX_FRAME_NUMBER, VERSION, Frame, Open, Opened, ProtocolError
from swwatch.data.prompt import refuse_markup
from swwatch.engine.choose import AUTO, check
from swwatch.engine.door import own_question, pace_of
from swwatch.rules.schedule import seconds_of_step
from swwatch.serve.connection import LiveConnection
from swwatch.serve.openai import events
from swwatch.serve.openai.answer import Words
from swwatch.serve.openai.messages import decoded, in_data_url
from swwatch.serve.openai.request import at, valid
from swwatch.serve.openai.response import Response
from swwatch.serve.refusals import error_body
from swwatch.serve.session import ServedSession
from swwatch.serve.sources import SessionOptions

STATUS = {
    "finished": "completed",
    "stopped": "cancelled",
    "error": "failed",
}  # of a response, at an end; else incomplete
OURS = (
    protocol.Ack,
    protocol.Watched,
    protocol.Decided,
    protocol.Turn,
    protocol.Asked,
    protocol.Dropped,
    protocol.Stats,
)


class Mistake(protocol.Error):
    """What our own protocol does not tell of one.

    Attributes:
        param: the field of the event that is at fault.
        event_id: the client's name of that event.
    """

    param: str | None = Field(None, exclude=True)
    event_id: str | None = Field(None, exclude=True)


class Realtime(LiveConnection):
    """Drives one WebSocket from its handshake to its close."""

    subprotocol, token_subprotocol = "realtime", "openai-insecure-api-key."

    def __init__(self, websocket, server):
        super().__init__(websocket, server)
        self._open_within_s = server.limits.idle_s
        self._config, self._question = events.Config(), None
        self._again: events.ItemCreate | events.ImageAppend | None = None  # what the session was opened for
        self._session: ServedSession | None = None
        self._event_id: str | None = None  # of the event that is being obeyed
        self._began_s: float | None = None
        self._num_pictures = self._num_events = 0
        self._response: Response | None = None
        self._silent = False

    # --- before the session -------------------------------------------------------------------------------------

    async def _accept(self) -> None:
        await super()._accept()
        self._checkpoint = self.server.sessions.stages.find(None)
        if (name := self.websocket.query_params.get("model")) is not None:
            try:
                self._checkpoint = self.server.sessions.stages.named(name)
            except ProtocolError as error:
                error.fatal = True
                raise
        settings = self._checkpoint.loaded.settings
        self._words, self._step_s = Words(in_turns=not pace_of(settings)), seconds_of_step(settings.fps)
        await self._tell("session.created", session=self._about())

    def _about(self, opened: Opened | None = None) -> dict:
        settings, config = self._checkpoint.loaded.settings, self._config
        schedule = "" if not pace_of(settings) else config.schedule or pace_of(settings)
        ours = {"fps": settings.fps, "schedule": schedule, "question": self._question or own_question(settings)}
        ours |= {"limits": self.limits.as_message().model_dump()}
        if opened is not None:
            ours |= {"engine": opened.engine, "why": opened.why, "left_s": opened.left_s}
        about = {"type": "realtime", "object": "realtime.session", "model": self._checkpoint.variant}
        return about | {"output_modalities": ["text"], "instructions": config.instructions or "", "swwatch": ours}

    async def _before_open(self, message: str | bytes) -> Open | None:
        event = self._event(message)
        if isinstance(event, events.Update):
            self._update(event.session)
            await self._tell("session.updated", session=self._about())
        if isinstance(event, events.ItemCreate):
            words, shows = _words_of(event), any(part.type == "input_image" for part in event.item.content)
            with at("item.content"):
                self._check_words(words)
            if event.item.role == "system":
                if shows:
                    raise ProtocolError("unsupported", "pictures are a user's", param="item.role")
                self._config = self._config.model_copy(update={"instructions": words})
            elif words:
                self._question = words
            if not shows:
                await self._tell_item(event)
                return None
        if isinstance(event, events.Close):
            raise ProtocolError("not_open", "no picture has come: there is nothing to speak about")
        if not isinstance(event, events.ItemCreate | events.ImageAppend):
            return None
        self._again = event
        how = {"schedule": self._config.schedule, "engine": self._config.engine, "rate": self._config.rate}
        how |= {"variant": self._checkpoint.variant, "question": self._question}
        return valid(Open, type="open", version=VERSION, **how)

    async def _begin(self, opening: Open) -> tuple[ServedSession, Opened]:
        system = self._config.instructions
        beside = SessionOptions(options={"system": system} if system else {})
        with at("session", unless_named=True):
            session, opened = await self.server.sessions.open(opening, self, beside)
        session.resumable, self._session = False, session
        return session, opened

    def _update(self, config: events.Config) -> None:
        """Raises: ProtocolError: a field that cannot be so; nothing has changed then."""
        checkpoint = self._checkpoint
        with at("session.schedule"):
            if config.schedule is not None:
                checkpoint.check_schedule(config.schedule)
        with at("session.engine"):
            if config.engine not in (None, AUTO):
                check(config.engine, checkpoint.variant)
        with at("session.instructions"):
            self._check_words(config.instructions or "")
        self._config = self._config.model_copy(update=config.model_dump(exclude_unset=True))

    def _check_words(self, words: str) -> None:
        if len(words) > self.limits.max_question_chars:
            raise ProtocolError("too_large", f"words may have {self.limits.max_question_chars} characters")
        refuse_markup(self._checkpoint.loaded.tokenizer.get_added_vocab(), words)

    # --- what the client says -----------------------------------------------------------------------------------

    async def _receive(self) -> str | bytes | events.ClientEvent:
        if self._session is not None and self._again is not None:
            event, self._again = self._again, None
            return event
        self._event_id = None
        return await super()._receive()

    def _mistake(self, error: ProtocolError) -> Mistake:
        where = {"param": error.param, "event_id": self._event_id}
        return Mistake(code=error.code, message=error.message, fatal=error.fatal, **where)

    def _event(self, message: str | bytes) -> events.ClientEvent:
        most = 4 * self.limits.max_frame_bytes // 3 + self.limits.max_message_bytes  # base64 adds a third
        if isinstance(message, bytes) or len(message) > most:
            raise ProtocolError("too_large", f"an event is text of at most {most} bytes")
        event = events.parse_event(message)
        self._event_id = event.event_id
        return event

    async def _obey(self, session: ServedSession, message: str | bytes | events.ClientEvent) -> None:
        event = self._event(message) if isinstance(message, str | bytes) else message
        match event:
            case events.ItemCreate():
                await self._take_item(session, event, is_first=event is message)
            case events.ImageAppend():
                with at("image"):
                    await self._picture(session, event.image, event.timestamp_s)
            case events.ResponseCreate():
                await session.command(protocol.Resume(type="resume"))
                self._silent = False
                await self._begin_response()
            case events.ResponseCancel():
                if self._silent:
                    raise ProtocolError("bad_message", "there is no response to cancel")
                await session.command(protocol.Pause(type="pause"))
                self._silent = True
                await self._end_response("cancelled")
            case events.Close():
                await session.command(protocol.Finish(type="end"))
            case events.Update():
                raise ProtocolError("unsupported", "the session has begun: update it before its first picture")

    async def _take_item(self, session: ServedSession, event: events.ItemCreate, *, is_first: bool) -> None:
        """Args: is_first: it is what the session was opened for, and its words were the question."""
        if event.item.role == "system":
            message = "the session has begun: the system's words go before the first picture"
            raise ProtocolError("unsupported", message, param="item.role")
        if not is_first and (words := _words_of(event)):
            with at("item.content"):
                await session.command(valid(protocol.Ask, type="ask", question=words))
        for i, part in enumerate(event.item.content):
            if part.type == "input_image":
                with at(f"item.content[{i}].image_url"):
                    kind, data = in_data_url(part.image_url)
                    if not kind.startswith("image/"):
                        raise ProtocolError("bad_message", "an input_image is a data URL of a picture")
                    await self._picture(session, data, part.timestamp_s)
        await self._tell_item(event)

    async def _picture(self, session: ServedSession, data: str, timestamp_s: float | None) -> None:
        now_s, number = time.monotonic(), self._num_pictures
        self._began_s = now_s if self._began_s is None else self._began_s
        if timestamp_s is None:
            timestamp_s = now_s - self._began_s if self._config.rate is None else number / self._config.rate
        self._num_pictures = (number + 1) % (MAX_FRAME_NUMBER + 1)
        await session.take(bytes(Frame(number, timestamp_s, decoded(data, self.limits.max_frame_bytes, "a picture"))))

    # --- what it is told ----------------------------------------------------------------------------------------

    async def _send(self, message: protocol.Message) -> None:
        """One of our messages, as events."""
        match message:
            case Opened():
                await self._tell("session.updated", session=self._about(message))
            case protocol.Token():
                await self._say(message)
            case protocol.Turn() | protocol.Asked():
                self._words.of(message)
                await self._end_response("completed")
            case protocol.Error():
                body = error_body(message.code, message.message)["error"]
                if isinstance(message, Mistake):
                    body |= {"param": message.param, "event_id": message.event_id}
                await self._tell("error", error=body)
            case protocol.End():
                await self._end_response(STATUS.get(message.reason, "incomplete"))
                await self._tell("session.closed", reason=message.reason)
        if isinstance(message, OURS):
            await self._tell(f"swwatch.{message.type}", **message.model_dump(exclude={"type", "n"}))

    async def _say(self, token: protocol.Token) -> None:
        text = self._words.of(token)
        if not text or self._silent:  # what was on its way when the response was cancelled
            return
        await self._begin_response()
        seen = {name: getattr(token, name) for name in ("step", "t_frame_s", "t_emit_s")}
        seen["seen_s"] = round((token.newest_visible_step + 1) * self._step_s, 6)
        await self._response.say(text, seen)

    async def _begin_response(self) -> None:
        if self._response is None:
            self._response = Response(self._tell)
            await self._response.begin()

    async def _end_response(self, status: str) -> None:
        if self._response is not None:
            response, self._response = self._response, None
            await response.end(status, self._session.telling.num_video)

    async def _tell_item(self, event: events.ItemCreate) -> None:
        """It was taken. What its pictures came to is told by `swwatch.ack`."""
        content = [{"type": part.type} | ({"text": part.text} if part.text else {}) for part in event.item.content]
        item = {"id": event.item.id or f"item_{secrets.token_hex(12)}", "object": "realtime.item", "type": "message"}
        item |= {"role": event.item.role, "status": "completed", "content": content}
        for kind in ("conversation.item.added", "conversation.item.done"):
            await self._tell(kind, item=item, previous_item_id=None)

    async def _tell(self, kind: str, **what) -> None:
        self._num_events += 1
        await self._send_text(json.dumps({"type": kind, "event_id": f"event_{self._num_events}", **what}))


def _words_of(event: events.ItemCreate) -> str:
    return "\n".join(part.text for part in event.item.content if part.type == "input_text").strip()
