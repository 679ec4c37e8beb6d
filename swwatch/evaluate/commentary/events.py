"""LiveSports-3K CC: events of sports videos, how a model is asked about them, and what it said.

Source: LiveCC, arXiv 2504.16030 (the benchmark, its columns and the parts of the question).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from swwatch.errors import UserError
from swwatch.evaluate.commentary.tasks import CommentaryTask, Wording, get
from swwatch.evaluate.rows import FileRow, read_rows
from swwatch.rules.systems import System

FIELDS = ("pred", "prediction", "response", "text")  # names of the text in files of predictions


@dataclass(frozen=True)
class CommentaryEvent:
    """Seconds begin_s to end_s of a video; `previous` was said before, `reference` in it."""

    video: str
    video_id: str
    event_id: str
    begin_s: float
    end_s: float
    title: str
    previous: str
    reference: str

    @property
    def key(self) -> str:
        return f"{self.video_id}_{self.event_id}"


def read_events(path: Path, task: CommentaryTask | None = None) -> list[CommentaryEvent]:
    """Events of a parquet, json or jsonl file with the columns of a task; by default LiveSports-3K CC's.

    Raises:
        UserError: a column is missing, times that are none, or an event that stands there twice.
    """
    names = (task or get("livesports-cc")).fields
    events = [_event(row, names) for row in read_rows(path)]
    if len({event.key for event in events}) < len(events):
        raise UserError(f"{path}: some (video_id, event_id) stand there twice")
    return events


def _event(row: FileRow, names: Mapping[str, str]) -> CommentaryEvent:
    begin, end = row.number(names["begin"]), row.number(names["end"])
    if not 0 <= begin < end:
        raise row.wrong(f"the event lasts from {begin:g} to {end:g} s")
    ids = (row.text(names["video_id"]), row.text(names["event_id"]))
    title, previous = (row.text(names[n]).strip() if names[n] in row else "" for n in ("title", "previous"))
    return CommentaryEvent(
        _video(row, names["video"], ids[0]), *ids, begin, end, title, previous, row.text(names["reference"])
    )


def _video(row: FileRow, name: str, video_id: str) -> str:
    """The file's name; a parquet column of videos holds objects with their path."""
    video = row.values.get(name)
    if isinstance(video, Mapping):
        video = video.get("path")
    return str(video) if video else f"{video_id}.mp4"


def ask(event: CommentaryEvent, system: System, wording: Wording, base_model: bool = False) -> dict[str, str]:
    """What a session is opened with: a system that keeps previous text has the words before there, others are told.

    Args:
        base_model: it follows no instructions: the bare title or, where there is none, the bare words before.
    """
    if base_model:
        query = event.title or ("" if system.previous_text else event.previous)
        return {"query": query, "previous": event.previous if system.previous_text else ""}
    title = [wording.titled.format(title=event.title)] if event.title else []
    if system.previous_text:
        return {"query": wording.apart.join([wording.expert, *title]), "previous": event.previous}
    before = [wording.before.format(previous=event.previous)] if event.previous else []
    go_on = [wording.go_on] if before or wording.go_on_alone else []
    return {"query": wording.apart.join([wording.expert, *title, *before, *go_on]), "previous": ""}


def read_predictions(path: Path) -> dict[str, str]:
    """Event -> text, of a file with video_id, event_id and the text in one of FIELDS; an empty text is one, too.

    Raises:
        UserError: no such file, a row of another form, or an event with two texts.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}: `swwatch commentary generate` makes one")
    texts: dict[str, str] = {}
    for row in read_rows(path):
        key = f"{row.text('video_id')}_{row.text('event_id')}"
        name = next((name for name in FIELDS if name in row.values), None)
        if name is None:
            raise row.wrong(f"no text: one of {', '.join(FIELDS)} is wanted")
        text = str(row.values[name] or "")
        if texts.setdefault(key, text) != text:
            raise row.wrong(f"the event {key} has another text in an earlier row")
    return texts
