"""What a chat completion asks, checked and bounded: the words, how tokens are chosen, and the one video.

The form is OpenAI's; `video_url` is vLLM's, and a time stamp in words before a picture is lmms-eval's.
"""

import base64
import binascii
import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from swwatch.client.protocol import MAX_TIMESTAMP_S, VERSION, File, Open, ProtocolError, Upload, Url
from swwatch.policies.choose import Choosing
from swwatch.serve.folder import Folder
from swwatch.serve.settings import Limits

MAX_MESSAGES, MAX_PARTS, MAX_STOPS = 256, 4096, 16
STAMP = re.compile(r"\s*<(\d{1,9}(?:\.\d{1,6})?) seconds>\s*")
NEUTRAL = {  # what is not done here -> the values that ask for nothing, and why no other is taken
    "n": ((1,), "a video is narrated once: ask again for another answer"),
    "logprobs": ((False,), "probabilities are not told"),
    "top_logprobs": ((0,), "probabilities are not told"),
    "presence_penalty": ((0,), "set repetition_penalty"),
    "frequency_penalty": ((0,), "set repetition_penalty"),
    "logit_bias": (({},), "tokens cannot be favoured"),
    "tools": (([],), "it speaks about a video, and calls nothing"),
    "functions": (([],), "it speaks about a video, and calls nothing"),
    "response_format": (({"type": "text"},), "it answers in free text"),
    "modalities": ((["text"],), "it answers in text"),
    "audio": ((), "it answers in text"),
}
NO_MATTER = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "tool_choice"}
NO_MATTER |= {"function_call", "parallel_tool_calls", "reasoning_effort", "verbosity"}


class Loose(BaseModel):
    """Fields that it does not know say nothing, such as `detail` of a picture."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


class Link(Loose):
    url: str


class Attached(Loose):
    file_id: str | None = None
    file_data: str | None = None


class Part(Loose):
    type: Literal["text", "image_url", "video_url", "file"]
    text: str = ""
    image_url: Link | None = None
    video_url: Link | None = None
    file: Attached | None = None
    timestamp_s: Annotated[float, Field(ge=-MAX_TIMESTAMP_S, le=MAX_TIMESTAMP_S)] | None = None


def _parts(content):
    return [{"type": "text", "text": content}] if isinstance(content, str) else content or []


class Message(Loose):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[Part], BeforeValidator(_parts), Field(max_length=MAX_PARTS)] = ()


class StreamOptions(Loose):
    include_usage: bool = False


def _stops(stop):
    return [stop] if isinstance(stop, str) else stop or []


class Request(BaseModel):
    """A chat completion; `fps`, `schedule` and `engine` are ours, `top_k` and `repetition_penalty` are vLLM's."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1, max_length=200)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200)]], BeforeValidator(_stops), Field(max_length=MAX_STOPS)
    ] = ()
    fps: Annotated[float, Field(gt=0, le=120)] | None = None
    schedule: str | None = None
    engine: str | None = None

    @property
    def limit(self) -> int | None:
        """Tokens of the answer."""
        return self.max_completion_tokens or self.max_tokens

    def choose(self, own: Choosing) -> Choosing:
        """How tokens are chosen: `own`, but for what is asked. Above a temperature of 0 they are drawn."""
        drawn = own if self.temperature is None else own.drawing(self.temperature > 0)
        asked = {"penalty": self.repetition_penalty}
        if drawn.draws:
            asked |= {name: getattr(self, name) for name in ("temperature", "top_p", "top_k", "seed")}
        return replace(drawn, **{name: value for name, value in asked.items() if value is not None})


@dataclass
class Asked:
    """What the messages say and show.

    Attributes:
        question, system: None for the model's own. The question is the last turn.
        before: (role, words) of the turns before it.
        pictures: seconds of the stream, and a picture file; in the order in which they were sent.
        source: of the video, where it is no pictures.
        video: its bytes, where the request holds them.
    """

    question: str | None = None
    system: str | None = None
    before: list[tuple[str, str]] = field(default_factory=list)
    pictures: list[tuple[float, bytes]] = field(default_factory=list)
    source: Upload | File | Url | None = None
    video: bytes | None = None

    def open(self, request: Request, variant: str) -> Open:
        """As our own protocol would ask."""
        how = {"schedule": request.schedule, "engine": request.engine, "question": self.question}
        return valid(Open, type="open", version=VERSION, variant=variant, policy="block", source=self.source, **how)


def valid(kind: type[BaseModel], /, **values):
    """A message of our protocol. Raises ProtocolError: bad_message."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise wrong(error) from None


def parse(body: bytes) -> Request:
    """A request.

    Raises:
        ProtocolError: bad_message, with the field; unsupported, with the reason.
    """
    try:
        raw = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ProtocolError("bad_message", f"the body is no JSON: {str(error)[:200]}") from None
    if not isinstance(raw, dict):
        raise ProtocolError("bad_message", "the body must be a JSON object")
    for name, (values, why) in NEUTRAL.items():
        value = raw.pop(name, None)
        if value is not None and not any(value == one and type(value) in (type(one), float) for one in values):
            raise ProtocolError("unsupported", f"{name}: {why}; leave it out")
    try:
        return Request.model_validate({name: value for name, value in raw.items() if name not in NO_MATTER})
    except ValidationError as error:
        raise wrong(error) from None


def wrong(error: ValidationError) -> ProtocolError:
    """What a client did wrong, in one sentence."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return ProtocolError("bad_message", f"{where}: {first['msg']}"[:300])


class Reader:
    """Reads the messages of a request. Of pictures and videos inside it only so many bytes are decoded as may be."""

    def __init__(self, limits: Limits, folder: Folder, fps: float):
        """Args: fps: pictures that have no time of their own come so many a second."""
        self._limits, self._folder, self._step_s = limits, folder, 1 / fps
        self._asked, self._stamp_s = Asked(), None

    def read(self, messages: list[Message]) -> Asked:
        """All of them.

        Raises:
            ProtocolError: no video or several, one that is too large or damaged, an address that is not taken.
        """
        turns, system = [], []
        for message in messages:
            words = "\n".join(filter(None, (self._part(part) for part in message.content))).strip()
            if message.role in ("system", "developer"):
                system.append(words)
            elif words or message is messages[-1]:  # a video alone is asked what the model is by itself
                turns.append((message.role, words))
        asked, most = self._asked, self._limits.max_question_chars
        if not (asked.pictures or asked.source or asked.video):
            raise ProtocolError("bad_message", "messages: there is no video and no picture in them")
        if turns and turns[-1][0] == "assistant":
            raise ProtocolError("unsupported", "messages: the last turn is the assistant's: it cannot be begun for it")
        asked.system = "\n".join(system) or None
        asked.before, asked.question = turns[:-1], (turns[-1][1] or None) if turns else None
        if max(sum(len(words) for _, words in turns), len(asked.system or "")) > most:
            raise ProtocolError("too_large", f"the words of all turns, and the system's, may have {most} characters")
        return asked

    def _part(self, part: Part) -> str:
        """The words of a part; what it shows is taken."""
        if part.type == "text":
            if stamp := STAMP.fullmatch(part.text):
                self._stamp_s = float(stamp[1])
                return ""
            return part.text
        what = getattr(part, part.type)
        if what is None:
            raise ProtocolError("bad_message", f"a part of the type {part.type} has no {part.type}")
        if part.type == "file" and what.file_id is not None:
            self._take(source=valid(Upload, kind="upload", id=what.file_id))
        else:
            self._address(part, what.url if part.type != "file" else what.file_data or "")
        return ""

    def _address(self, part: Part, url: str) -> None:
        scheme = url.partition(":")[0]
        if scheme == "data":
            kind, data = in_data_url(url)
            if kind.startswith("image/"):
                self._picture(data, part.timestamp_s)
            elif kind == "video/jpeg":  # as vLLM has it: pictures in a row
                for one in data.split(",", MAX_PARTS):
                    self._picture(one, None)
            else:
                self._take(video=decoded(data, self._limits.max_upload_bytes, "a video"))
        elif part.type == "image_url":
            raise ProtocolError("unsupported", "a picture must be a data URL: data:image/jpeg;base64,...")
        elif scheme == "file":
            self._take(source=valid(File, kind="file", name=self._folder.name_of(url)))
        else:
            self._take(source=valid(Url, kind="url", url=url))

    def _picture(self, data: str, timestamp_s: float | None) -> None:
        pictures = self._asked.pictures
        if self._asked.source or self._asked.video:
            raise ProtocolError("unsupported", "pictures or a video: not both")
        if len(pictures) >= MAX_PARTS:
            raise ProtocolError("too_large", f"a request may have {MAX_PARTS} pictures")
        at_s = next((s for s in (timestamp_s, self._stamp_s) if s is not None), None)
        if at_s is None:
            at_s = pictures[-1][0] + self._step_s if pictures else 0.0
        if pictures and at_s < pictures[-1][0]:
            raise ProtocolError("bad_message", f"a picture of {at_s:g} s behind one of {pictures[-1][0]:g} s")
        self._stamp_s = None
        pictures.append((at_s, decoded(data, self._limits.max_frame_bytes, "a picture")))

    def _take(self, **video) -> None:
        asked = self._asked
        if asked.pictures or asked.source or asked.video:
            raise ProtocolError("unsupported", "one video at a time, and no pictures beside it")
        for name, value in video.items():
            setattr(asked, name, value)


def in_data_url(url: str) -> tuple[str, str]:
    """What kind of file a data URL holds, and its base64. Raises ProtocolError: bad_message."""
    head, _, data = url.partition(",")
    kind = head.removeprefix("data:").removesuffix(";base64")
    if head != f"data:{kind};base64":
        raise ProtocolError("bad_message", "send a data URL in base64, such as data:image/jpeg;base64,...")
    return kind, data


def decoded(data: str, most: int, what: str) -> bytes:
    """Base64, which is not touched where it is too long. Raises ProtocolError: too_large, bad_message."""
    if len(data) > 4 * (most // 3 + 1):
        raise ProtocolError("too_large", f"{what} may have {most} bytes")
    try:
        decoded = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolError("bad_message", f"the base64 of {what} is damaged") from None
    if not decoded:
        raise ProtocolError("bad_message", f"{what} is empty")
    return decoded
