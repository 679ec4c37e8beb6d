"""The messages of the live protocol, version 1: strict, bounded, and the source of docs/protocol.schema.json.

A client sends JSON text (`parse_client`) and binary frames (`Frame`); the server sends JSON text. What each message
means, and when it may come, is told in docs/protocol.md.

    python -m swwatch.client.protocol > docs/protocol.schema.json
"""

import json
import math
import struct
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from swwatch.client.codes import Code, ProtocolError

VERSION = 1
SUBPROTOCOL = "swwatch.v1"
TOKEN_SUBPROTOCOL = "swwatch.token."  # followed by the bearer token: a browser cannot set headers on a WebSocket
HEADER = struct.Struct(">4sId")  # magic, frame number, timestamp in seconds
MAGIC = b"SWF1"
MAX_TIMESTAMP_S = 1e11  # as data/live_frames.py has it; beyond, float64 is too coarse for the grid
MAX_FRAME_NUMBER = 2**32 - 1

Reason = Literal["finished", "stopped", "idle", "limit", "shutdown", "error", "replaced"]
Count = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(min_length=1, max_length=64)]
Question = Annotated[str, Field(min_length=1, max_length=4000)]  # the server's own limit is told in `opened`


class Message(BaseModel):
    """Unknown fields, other types (also 1 for true) and NaN are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def wire(self) -> str:
        """As it goes over the wire."""
        return self.model_dump_json()


# --- client to server -------------------------------------------------------------------------------------------


class Upload(Message):
    """A file that was sent to POST /api/uploads."""

    kind: Literal["upload"]
    id: Annotated[str, Field(min_length=1, max_length=64)]


class File(Message):
    """A file in the server's allowed folder, as GET /api/files names it."""

    kind: Literal["file"]
    name: Annotated[str, Field(min_length=1, max_length=1024)]


class Url(Message):
    """A stream that the server fetches: rtsp, rtsps, http or https."""

    kind: Literal["url"]
    url: Annotated[str, Field(min_length=1, max_length=2048)]


class Open(Message):
    """The first message: begin a session, or go on with one (`resume`; then only `seen` matters beside it)."""

    type: Literal["open"]
    version: int
    variant: Name | None = None
    engine: Name | None = None
    schedule: Name | None = None
    question: Question | None = None
    rate: Annotated[float, Field(gt=0, le=120)] | None = None
    policy: Literal["drop_oldest", "merge", "block"] = "drop_oldest"
    source: Annotated[Upload | File | Url, Field(discriminator="kind")] | None = None
    record: bool = False
    resume: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    seen: Annotated[int, Field(ge=-1)] = -1


class Ask(Message):
    """A new question, in effect from the next step on."""

    type: Literal["ask"]
    question: Question


class Pause(Message):
    """Be silent, and go on watching."""

    type: Literal["pause"]


class Resume(Message):
    """Speak again."""

    type: Literal["resume"]


class Stop(Message):
    """End now: nothing more is watched or said."""

    type: Literal["stop"]


class Finish(Message):
    """No more frames will come: say the rest and end."""

    type: Literal["end"]


class Ping(Message):
    """Is the server there? Does not keep an idle session alive."""

    type: Literal["ping"]


Client = Annotated[Open | Ask | Pause | Resume | Stop | Finish | Ping, Field(discriminator="type")]
_CLIENT = TypeAdapter(Client)


def parse_client(text: str) -> Open | Ask | Pause | Resume | Stop | Finish | Ping:
    """A client's text message.

    Raises:
        ProtocolError: no JSON, no such type, a field that is missing, unknown or out of its range.
    """
    try:
        return _CLIENT.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"{where}: {first['msg']}" if where else first["msg"]
        raise ProtocolError("bad_message", message[:300]) from None  # pydantic repeats an unknown type in full


@dataclass(frozen=True)
class Frame:
    """A binary message: 16 bytes of header, then a JPEG, PNG or WebP picture.

    Attributes:
        number: the sender's count, 0 to 2**32 - 1; acknowledgements name it.
        timestamp_s: seconds of the sender's stream, from any zero.
        data: the picture as a file.
    """

    number: int
    timestamp_s: float
    data: bytes

    @classmethod
    def parse(cls, message: bytes) -> "Frame":
        """The inverse of `bytes(frame)`.

        Raises:
            ProtocolError: no header, another magic, no picture behind it, a time that is no number.
        """
        if len(message) <= HEADER.size or message[:4] != MAGIC:
            raise ProtocolError("bad_frame", f"a frame begins with {MAGIC.decode()}, a number, a time, then a picture")
        _, number, timestamp_s = HEADER.unpack_from(message)
        if not math.isfinite(timestamp_s) or abs(timestamp_s) > MAX_TIMESTAMP_S:
            raise ProtocolError("bad_frame", f"the timestamp must be within {MAX_TIMESTAMP_S:.0e} s of 0")
        return cls(number, timestamp_s, message[HEADER.size :])

    def __bytes__(self) -> bytes:
        return HEADER.pack(MAGIC, self.number, self.timestamp_s) + self.data


# --- server to client -------------------------------------------------------------------------------------------


class LimitsTold(Message):
    """What this server accepts."""

    frame_bytes: Count
    pixels: Count
    frame_rate: float
    message_bytes: Count
    question_chars: Count
    idle_s: float
    total_s: float
    tokens: Count


class Opened(Message):
    """The session stands. `session` is a secret: whoever has it can go on with the session."""

    type: Literal["opened"] = "opened"
    session: str
    variant: str
    engine: str
    why: str
    schedule: str
    question: str
    fps: float = 2.0
    rate: float
    policy: str
    limits: LimitsTold
    grace_s: float
    left_s: float
    resumed: bool = False
    missed: Count = 0
    recording: str | None = None


class Ack(Message):
    """A frame came in; stands for `frames` frames, of which `frame` is the newest."""

    type: Literal["ack"] = "ack"
    frame: Annotated[int, Field(ge=0, le=MAX_FRAME_NUMBER)]
    taken: bool
    dropped: Count
    queued: Count
    reason: str = ""
    frames: Annotated[int, Field(ge=1)] = 1


class Event(Message):
    """Numbered, kept for a reconnect, never left out."""

    n: Count | None = None


class Watched(Event):
    """The model has taken in a step (two frames of its grid: 2 / fps seconds).

    Where it did not look at all of the picture, `grid` is how many rows and columns that is divided into, and `kept`
    which of these places it looked at, counted from 0, row after row.
    """

    type: Literal["watched"] = "watched"
    step: Count
    arrival_s: float
    t_s: float
    grid: tuple[Count, Count] | None = None
    kept: tuple[Count, ...] | None = None


class Token(Event):
    """A spoken token: a piece of a word, "" while a character is incomplete."""

    type: Literal["token"] = "token"
    text: str
    step: Count
    newest_visible_step: int
    t_frame_s: float
    t_emit_s: float
    lag_s: float
    index: Count


class Thought(Event):
    """A token that was thought and not said, where the model thinks beside its words. `begins`: it begins a note."""

    type: Literal["thought"] = "thought"
    text: str
    begins: bool
    step: Count
    newest_visible_step: int
    t_frame_s: float
    t_emit_s: float


class Decided(Event):
    """How many tokens are due after a step, by a schedule that decides while it streams; 0 is silence. `why`: what it
    went by."""

    type: Literal["decided"] = "decided"
    step: Count
    tokens: Count
    t_s: float
    why: dict[str, float | None]


class Turn(Event):
    """A chat turn has ended: its words, from the token after the last turn on, are about these seconds of the stream.

    `text` is all of them, without the dots by which a model says that it is silent; "" where it was. A `thought` was
    not said: its tokens are those of `thought`. `wrong_end`: what it ended with, where its form wants another end.
    """

    type: Literal["turn"] = "turn"
    turn: Count
    start_s: float
    end_s: float
    text: str
    t_s: float
    thought: bool = False
    wrong_end: str | None = None


class Asked(Event):
    """A question took effect before this step was watched."""

    type: Literal["asked"] = "asked"
    step: Count
    question: str
    t_s: float


class Dropped(Event):
    """Steps that the model will never see."""

    type: Literal["dropped"] = "dropped"
    steps: Count
    total: Count
    reason: str


class Stats(Message):
    """How the session stands, once a second."""

    type: Literal["stats"] = "stats"
    frames_in: Count
    frames_dropped: Count
    steps_watched: Count
    steps_queued: Count
    tokens: Count
    tokens_per_s: float
    lag_s: float | None
    frame_rate: float


class Error(Event):
    """Something went wrong. After a fatal one the session, or the connection before one is open, ends."""

    type: Literal["error"] = "error"
    code: Code
    message: str
    fatal: bool = False


class End(Event):
    """The last message of a session, and of this connection."""

    type: Literal["end"] = "end"
    reason: Reason
    tokens: Count = 0
    recording: str | None = None


class Pong(Message):
    """The server is there."""

    type: Literal["pong"] = "pong"


Server = Annotated[
    Opened | Ack | Watched | Token | Thought | Decided | Turn | Asked | Dropped | Stats | Error | End | Pong,
    Field(discriminator="type"),
]
_SERVER = TypeAdapter(Server)


def parse_server(text: str):
    """A server's text message; for clients and tests. Raises pydantic's ValidationError."""
    return _SERVER.validate_json(text)


def schemas() -> dict:
    """JSON schemas of both directions, as docs/protocol.schema.json has them."""
    return {
        "title": "swwatch live protocol",
        "version": VERSION,
        "client": _CLIENT.json_schema(),
        "server": _SERVER.json_schema(mode="serialization"),
    }


if __name__ == "__main__":
    json.dump(schemas(), sys.stdout, indent=1)
    print()
