"""The form of a chat completion, checked and bounded, and how it wants tokens to be chosen.

The form is OpenAI's; `video_url` is vLLM's, and a time stamp in words before a picture is lmms-eval's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from swwatch.client.protocol import MAX_TIMESTAMP_S, ProtocolError
from swwatch.errors import UserError
from swwatch.policies.choose import Choosing
from swwatch.serve.refusals import STATUS

MAX_MESSAGES, MAX_PARTS, MAX_STOPS = 256, 4096, 16
MAX_VALUES = 100_000  # lists, objects and what is in them: each may take fifty times the bytes that it is told in
OF_A_FIELD = (400, 404, 413)  # statuses of what is wrong in a request; nothing in it is at fault for any other
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


class ContentPart(Loose):
    type: Literal["text", "image_url", "video_url", "file"]
    text: str = ""
    image_url: Link | None = None
    video_url: Link | None = None
    file: Attached | None = None
    timestamp_s: Annotated[float, Field(ge=-MAX_TIMESTAMP_S, le=MAX_TIMESTAMP_S)] | None = None


def _parts(content):
    return [{"type": "text", "text": content}] if isinstance(content, str) else content or []


class ChatMessage(Loose):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[ContentPart], BeforeValidator(_parts), Field(max_length=MAX_PARTS)] = ()


class StreamOptions(Loose):
    include_usage: bool = False


def _stops(stop):
    return [stop] if isinstance(stop, str) else stop or []


class Request(BaseModel):
    """A chat completion; `fps`, `schedule` and `engine` are ours, `top_k` and `repetition_penalty` are vLLM's."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1, max_length=200)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
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
        options = {"penalty": self.repetition_penalty}
        if drawn.draws:
            options |= {name: getattr(self, name) for name in ("temperature", "top_p", "top_k", "seed")}
        return replace(drawn, **{name: value for name, value in options.items() if value is not None})


def valid(kind: type[BaseModel], /, **values):
    """A message of our protocol. Raises ProtocolError: bad_message."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise wrong(error) from None


def parse(body: bytes) -> Request:
    """A request.

    Raises:
        ProtocolError: bad_message, with the field; unsupported, with the reason; too_large.
    """
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > MAX_VALUES:
        raise ProtocolError("too_large", f"a request may have {MAX_VALUES} values")
    try:
        raw = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ProtocolError("bad_message", f"the body is no JSON: {str(error)[:200]}") from None
    if not isinstance(raw, dict):
        raise ProtocolError("bad_message", "the body must be a JSON object")
    for name, (values, why) in NEUTRAL.items():
        value = raw.pop(name, None)
        if value is not None and not any(value == one and type(value) in (type(one), float) for one in values):
            raise ProtocolError("unsupported", f"{name}: {why}; leave it out", param=name)
    try:
        return Request.model_validate({name: value for name, value in raw.items() if name not in NO_MATTER})
    except ValidationError as error:
        raise wrong(error) from None


def wrong(error: ValidationError, *, tagged: bool = False) -> ProtocolError:
    """What a client did wrong, in one sentence, and where: `messages[0].role`.

    Args:
        tagged: it is of an event that is known by its type, which stands before every place.
    """
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    parts = ("type",) if first["type"].startswith("union_tag") else first["loc"][tagged:]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
    return ProtocolError("bad_message", f"{place}: {first['msg']}"[:300], param=place[:100] or None)


@contextmanager
def at(place: str, *, unless_named: bool = False) -> Iterator[None]:
    """What is wrong in the block is at this place of the request.

    Args:
        unless_named: a place that is named already stays.
    Raises:
        ProtocolError: which names it, where a field is at fault.
    """
    try:
        yield
    except ProtocolError as error:
        if STATUS.get(error.code, 400) in OF_A_FIELD and not (unless_named and error.param):
            error.param = place
        raise
    except UserError as error:
        raise ProtocolError("unsupported", str(error), param=place) from error
