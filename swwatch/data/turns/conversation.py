"""What a training conversation says: a commentary to be spoken turn by turn, or ordinary chat about a video or image.

The public form of StreamingVLM's and LiveCC's files. A commentary has a `text_stream`, rows of [start, end, word] in
seconds of the video, and may have a `qa_stream`, rows of [start, end, question, answer], each asked in the turn in
which it ends. Everything else is ordinary chat. Systems that think take rows of several words for thoughts, each about
a segment that ends where the row does (Video Streaming Thinking has this form).
"""

from dataclasses import dataclass

from swwatch.data.seek_jsonl import MEDIA
from swwatch.data.turns.transcript import Transcript, Word
from swwatch.errors import UserError
from swwatch.rules.systems import Context


@dataclass(frozen=True)
class TimedQuestion:
    """A question in the middle of a commentary."""

    time_s: float
    question: str
    answer: str


@dataclass(frozen=True)
class Commentary:
    """What is said to a clip.

    Attributes:
        query: of the user; empty where there is none.
        words: in order of their ends, seconds of the video.
        questions: in order of time.
        previous: what was said before the clip; title: of the video.
        ends_s: of the segments that are thought about, where the record has some; seconds of the video.
    """

    query: str
    words: tuple[Word, ...]
    questions: tuple[TimedQuestion, ...] = ()
    previous: str = ""
    title: str = ""
    ends_s: tuple[float, ...] = ()

    def query_with(self, context: Context) -> str:
        """The query with a line for the title and one for what was said before, the first perhaps empty (LiveCC)."""
        if context == "none":
            return self.query
        previous = "" if context == "title" else self.previous
        title = self.title if context in ("title", "both") or (context != "previous" and not previous) else ""
        return f"{self.query}\n{title}\n{previous}".strip()


@dataclass(frozen=True)
class Chat:
    """Ordinary chat: (content, answer) of each turn; None in a content stands where the video or image is.

    Attributes:
        still: it is about an image, which no family gives a time stamp.
    """

    turns: tuple[tuple[tuple[str | None, ...], str], ...]
    still: bool = False


def read(record: dict) -> Commentary | Chat:
    """What a record of data.seek_jsonl says.

    Raises:
        UserError: it has neither form.
    """
    messages = record["messages"]
    streams = [part for message in messages for part in message["content"] if part["type"] == "text_stream"]
    if not streams:
        return Chat(_chat(messages), media_of(record)["type"] == "image")
    if len(streams) > 1 or len(messages) != 2:
        raise UserError("a commentary has one user message and one text_stream")
    texts = [part for part in messages[0]["content"] if part["type"] == "text"]
    context = {key: next((part[key] for part in texts if part.get(key)), "") for key in ("previous", "title")}
    for key, text in context.items():
        _text(text, key)
    query = "\n".join(filter(None, (_text(part.get("text") or "", "text").strip() for part in texts)))
    words = Transcript.read(_rows(streams[0], "text_stream"), "text_stream").words
    ends_s = tuple(streams[0].get("ends_s", ())) or tuple(word.end_s for word in words if " " in word.text)
    return Commentary(query, words, asked_of(streams[0]), **context, ends_s=ends_s)


def span_of(record: dict) -> tuple[float, float | None]:
    """Seconds of the video at which a record's clip begins and ends; None: where the video ends.

    Raises:
        UserError: they are no times.
    """
    video = media_of(record)
    start, end = video.get("video_start"), video.get("video_end")
    try:
        start, end = float(start or 0.0), None if end is None else float(end)
    except (TypeError, ValueError) as error:
        raise UserError(f"video_start {start!r} and video_end {end!r} must be seconds") from error
    if not 0 <= start < float("inf") or (end is not None and not start < end < float("inf")):
        raise UserError(f"video_start {start:g} and video_end {end} are no span of a video")
    return start, end


def media_of(record: dict) -> dict:
    """The part of a record that names its video or image."""
    return next(part for part in record["messages"][0]["content"] if part["type"] in MEDIA)


def _rows(stream: dict, name: str) -> list:
    rows = stream.get(name) or []
    if not isinstance(rows, list):
        raise UserError(f"{name} is {type(rows).__name__}, not a list of rows")
    return rows


def asked_of(stream: dict) -> tuple[TimedQuestion, ...]:
    """The questions of a stream, or of a narration's record, in the order of time.

    Raises:
        UserError: its `qa_stream` is no list of rows.
    """
    questions = []
    for number, row in enumerate(_rows(stream, "qa_stream")):
        try:
            _, time_s, question, answer = row
            questions.append(
                TimedQuestion(float(time_s), _text(question, "question").strip(), _text(answer, "answer").strip())
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"qa_stream, row {number}: {row!r} is not [start, end, question, answer]") from error
    return tuple(sorted(questions, key=lambda question: question.time_s))


def _chat(messages: list[dict]) -> tuple[tuple[tuple[str | None, ...], str], ...]:
    """The turns of ordinary chat."""
    turns = []
    for user, assistant in zip(messages[::2], messages[1::2], strict=True):
        content = tuple(None if part["type"] in MEDIA else _text(part.get("text"), "text") for part in user["content"])
        if any(part["type"] != "text" for part in assistant["content"]):
            raise UserError("the assistant answers in text")
        answer = "".join(_text(part.get("text"), "text") for part in assistant["content"])
        if not answer.strip():
            raise UserError("an answer is empty")
        turns.append((content, answer))
    return tuple(turns)


def _text(value, name: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{name} {value!r} is no text")
    return value
