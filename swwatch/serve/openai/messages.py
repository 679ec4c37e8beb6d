"""What the messages of a chat completion say and show: the words of its turns, and the one video, bounded."""

import base64
import binascii
import re
from dataclasses import dataclass

from swwatch.client.protocol import VERSION, File, Open, ProtocolError, Upload, Url
from swwatch.serve.folder import Folder
from swwatch.serve.openai.request import MAX_PARTS, ChatMessage, ContentPart, Request, at, valid
from swwatch.serve.settings import Limits

STAMP = re.compile(r"\s*<(\d{1,9}(?:\.\d{1,6})?) seconds>\s*")  # of the picture behind it


@dataclass
class Conversation:
    """What the messages say and show.

    Attributes:
        question, system: None for the model's own. The question is the last turn.
        before: (role, words) of the turns before it.
        video: where it is, or the file itself; None where it is pictures.
        pictures: seconds of the stream, and a picture file; in the order in which they were sent.
    """

    question: str | None
    system: str | None
    before: list[tuple[str, str]]
    video: Upload | File | Url | bytes | None
    pictures: list[tuple[float, bytes]]

    def open(self, request: Request, variant: str, source: Upload | File | Url | None) -> Open:
        """As our own protocol would ask. Args: source: of the video; None where it is pictures."""
        how = {"schedule": request.schedule, "engine": request.engine, "question": self.question}
        return valid(Open, type="open", version=VERSION, variant=variant, policy="block", source=source, **how)


class Reader:
    """Reads the messages of a request. Of pictures and videos inside it only so many bytes are decoded as may be."""

    def __init__(self, limits: Limits, folder: Folder, fps: float):
        """Args: fps: pictures that have no time of their own come so many a second."""
        self._limits, self._folder, self._step_s = limits, folder, 1 / fps
        self._videos: list[Upload | File | Url | bytes] = []
        self._pictures: list[tuple[float, bytes]] = []
        self._stamp_s: float | None = None  # told in words, of the next picture

    def read(self, messages: list[ChatMessage]) -> Conversation:
        """All of them.

        Raises:
            ProtocolError: no video or several, one that is too large or damaged, an address that is not taken; with
                the place of what is wrong.
        """
        system, turns = [], []
        for i, message in enumerate(messages):
            words = self._words(message, f"messages[{i}]")
            if message.role in ("system", "developer"):
                system.append(words)
            elif words or message is messages[-1]:  # a video alone is asked what the model is by itself
                turns.append((message.role, words))
        with at("messages"):
            self._check(turns, system)
        question = turns[-1][1] if turns else ""
        video = self._videos.pop() if self._videos else None
        return Conversation(question or None, "\n".join(system) or None, turns[:-1], video, self._pictures)

    def _check(self, turns: list[tuple[str, str]], system: list[str]) -> None:
        if not (self._videos or self._pictures):
            raise ProtocolError("bad_message", "messages: there is no video and no picture in them")
        if turns and turns[-1][0] == "assistant":
            raise ProtocolError("unsupported", "messages: the last turn is the assistant's: it cannot be begun for it")
        most = self._limits.max_question_chars
        if max(sum(len(words) for _, words in turns), len("\n".join(system))) > most:
            raise ProtocolError("too_large", f"the words of all turns, and the system's, may have {most} characters")

    def _words(self, message: ChatMessage, where: str) -> str:
        """The words of a message; what it shows is taken."""
        words = []
        for i, part in enumerate(message.content):
            with at(f"{where}.content[{i}]"):
                if part.type != "text":
                    self._show(part)
                elif stamp := STAMP.fullmatch(part.text):
                    self._stamp_s = float(stamp[1])
                else:
                    words.append(part.text)
        return "\n".join(filter(None, words)).strip()

    def _show(self, part: ContentPart) -> None:
        """Take what a part shows."""
        shown = getattr(part, part.type)
        if shown is None:
            raise ProtocolError("bad_message", f"a part of the type {part.type} has no {part.type}")
        if part.type == "file" and shown.file_id is not None:
            self._videos.append(valid(Upload, kind="upload", id=shown.file_id))
        else:
            address = shown.url if part.type != "file" else shown.file_data or ""
            if address.startswith("data:"):
                self._take_data(address, part.timestamp_s)
            elif part.type == "image_url":
                raise ProtocolError("unsupported", "a picture must be a data URL: data:image/jpeg;base64,...")
            else:
                self._videos.append(self._video_at(address))
        if len(self._videos) + bool(self._pictures) > 1:
            raise ProtocolError("unsupported", "one video at a time, and no pictures beside it")

    def _video_at(self, address: str) -> File | Url:
        """A file of the server's, by its address or its path, as VLMEvalKit sends it; or what it shall fetch."""
        if address.startswith(("file:", "/")):
            return valid(File, kind="file", name=self._folder.name_of(address))
        return valid(Url, kind="url", url=address)

    def _take_data(self, url: str, timestamp_s: float | None) -> None:
        kind, data = in_data_url(url)
        if kind.startswith("image/"):
            self._take_picture(data, timestamp_s)
        elif kind == "video/jpeg":  # as vLLM has it: pictures in a row
            for one in data.split(",", MAX_PARTS):
                self._take_picture(one, None)
        else:
            self._videos.append(decoded(data, self._limits.max_upload_bytes, "a video"))

    def _take_picture(self, data: str, timestamp_s: float | None) -> None:
        """At its own time; without one at that of the words before it, or a step behind the picture before it."""
        if len(self._pictures) >= MAX_PARTS:
            raise ProtocolError("too_large", f"a request may have {MAX_PARTS} pictures")
        last_s = self._pictures[-1][0] if self._pictures else None
        follows_s = 0.0 if last_s is None else last_s + self._step_s
        at_s = next(time_s for time_s in (timestamp_s, self._stamp_s, follows_s) if time_s is not None)
        if last_s is not None and at_s < last_s:
            raise ProtocolError("bad_message", f"a picture of {at_s:g} s behind one of {last_s:g} s")
        self._stamp_s = None
        self._pictures.append((at_s, decoded(data, self._limits.max_frame_bytes, "a picture")))


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
