"""The events of OpenAI's realtime form that a client may send, checked and bounded. What is ours says so."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from swwatch.client.protocol import MAX_TIMESTAMP_S
from swwatch.serve.openai.request import Loose, wrong

TimeStamp = Annotated[float, Field(ge=-MAX_TIMESTAMP_S, le=MAX_TIMESTAMP_S)]


class Named(Loose):
    """An event, which its client may give a name, by which errors are told."""

    event_id: Annotated[str, Field(max_length=512)] | None = None


class Content(Loose):
    """`timestamp_s` is ours: when the picture was on display, in seconds of the client's stream."""

    type: Literal["input_text", "input_image"]
    text: str = ""
    image_url: str = ""
    timestamp_s: TimeStamp | None = None


class ConversationItem(Loose):
    type: Literal["message"] = "message"
    role: Literal["user", "system"]
    id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    content: Annotated[list[Content], Field(min_length=1, max_length=64)]


class ItemCreate(Named):
    """A question, pictures, or both; of the role "system" the system turn, before the first picture."""

    type: Literal["conversation.item.create"]
    item: ConversationItem


class ImageAppend(Named):
    """A picture in base64, without an item around it: Qwen-Omni's event, which OpenAI has for sound alone."""

    type: Literal["input_image_buffer.append"]
    image: str
    timestamp_s: TimeStamp | None = None


class Config(Loose):
    """Of a session. Ours are `schedule`, `engine` and `rate`: pictures without a time come so many a second."""

    type: Literal["realtime"] = "realtime"
    instructions: str | None = None
    output_modalities: list[Literal["text"]] | None = None
    max_output_tokens: Literal["inf"] | None = None
    tools: Annotated[list, Field(max_length=0)] | None = None
    schedule: str | None = None
    engine: str | None = None
    rate: Annotated[float, Field(gt=0, le=120)] | None = None


class Update(Named):
    type: Literal["session.update"]
    session: Config


class Wanted(Loose):
    output_modalities: list[Literal["text"]] | None = None
    instructions: Literal[""] | None = None
    input: Annotated[list, Field(max_length=0)] | None = None
    tools: Annotated[list, Field(max_length=0)] | None = None
    max_output_tokens: Literal["inf"] | None = None


class ResponseCreate(Named):
    """Speak (again)."""

    type: Literal["response.create"]
    response: Wanted | None = None


class ResponseCancel(Named):
    """Be silent, and go on watching."""

    type: Literal["response.cancel"]


class Close(Named):
    """No more pictures: say the rest, and end. OpenAI has this event for translations."""

    type: Literal["session.close"]


ClientEvent = ItemCreate | ImageAppend | Update | ResponseCreate | ResponseCancel | Close
_EVENT = TypeAdapter(Annotated[ClientEvent, Field(discriminator="type")])


def parse_event(text: str) -> ClientEvent:
    """A client's event. Raises ProtocolError: bad_message, with the field."""
    try:
        return _EVENT.validate_json(text)
    except ValidationError as error:
        raise wrong(error, tagged=True) from None
