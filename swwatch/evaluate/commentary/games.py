"""Inf-Streams-Eval: whole games with timestamped words, the segments that are compared, and what was said.

Videos lie in folders of the benchmark; rows of what was said have the file's name alone, as its own programs write and
look for it. Source: StreamingVLM, arXiv 2510.09608 (the benchmark and its files).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from swwatch.data.turns.transcript import Transcript, Word
from swwatch.errors import UserError
from swwatch.evaluate.commentary.tasks import CommentaryTask, get
from swwatch.evaluate.commentary.texts import Utterance
from swwatch.evaluate.rows import FileRow, read_rows


@dataclass(frozen=True)
class Game:
    """A video, and what its human commentators said. `video` is its path, perhaps below a folder of all."""

    video: str
    transcript: Transcript
    title: str = ""

    @property
    def key(self) -> str:
        return name_of(self.video)


@dataclass(frozen=True)
class Segment:
    """A part of a game that is compared. `video` is the file's name."""

    video: str
    title: str
    start_s: float
    end_s: float
    words: tuple[Word, ...]

    @property
    def key(self) -> str:
        return f"{self.video}:{self.start_s:g}-{self.end_s:g}"


def name_of(video: str) -> str:
    """What rows call a video: the name of its file."""
    return PurePosixPath(video).name


def read_games(path: Path, task: CommentaryTask | None = None) -> list[Game]:
    """Games of a file with the fields of a task; by default Inf-Streams-Eval's.

    A row is {video, content: [[start, end, word], ...]} there.

    Raises:
        UserError: a row of another form, or two videos of one name.
    """
    names = (task or get("inf-streams")).fields
    games = [_game(row, names) for row in read_rows(path)]
    seen: set[str] = set()
    for game in games:
        if game.key in seen:
            raise UserError(f"{path}: a video of the name {game.key} stands there twice; remove one row")
        seen.add(game.key)
    return games


def _game(row: FileRow, names: Mapping[str, str]) -> Game:
    content = row.values.get(names["words"])
    if not isinstance(content, list):
        raise row.wrong(f"no list {names['words']} of [start, end, word]")
    title = row.text(names["title"]) if names["title"] in row else ""
    return Game(row.text(names["video"]), Transcript.read(content, row.where), title)


def segments_of(
    games: Iterable[Game],
    start_s: float | None = None,
    least_words: int | None = None,
    task: CommentaryTask | None = None,
) -> list[Segment]:
    """Cut games into a task's segments, from `start_s` on; those with few words are left out."""
    found, how = [], (task or get("inf-streams")).segments
    start_s = how["begin_s"] if start_s is None else start_s
    least_words = how["least_words"] if least_words is None else least_words
    for game in games:
        last = max((word.end_s for word in game.transcript.words), default=0.0)
        for k in range(math.ceil(max(0.0, last - start_s) / how["length_s"])):
            begin, end = (start_s + i * how["length_s"] for i in (k, k + 1))
            words = game.transcript.between(begin, end)
            if len(words) >= least_words:
                found.append(Segment(game.key, game.title, begin, end, words))
    return found


def read_segments(
    path: Path, least_words: int | None = None, task: CommentaryTask | None = None
) -> tuple[list[Segment], int]:
    """Segments that were cut already, one a row: {video, title?, content}; how many words were mended.

    A row may name its start and end; else it lasts from its first word to the end of its last one.
    """
    found, mended, task = [], 0, task or get("inf-streams")
    least_words, names = task.segments["least_words"] if least_words is None else least_words, task.fields
    for row in read_rows(path):
        game = _game(row, names)
        words = game.transcript.words
        mended += game.transcript.mended
        if len(words) < least_words:
            continue
        first_s = min((word.start_s for word in words), default=0.0)
        begin = row.number(names["start"]) if names["start"] in row else first_s
        end = row.number(names["end"]) if names["end"] in row else words[-1].end_s
        found.append(Segment(game.key, game.title, begin, end, words))
    return found, mended


def read_said(path: Path) -> dict[str, list[Utterance]]:
    """Video -> what a model said, of a file of {video, chunk_start, chunk_end, items}, whoever made it.

    Raises:
        UserError: no such file, or a row of another form.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}: `swwatch commentary generate` makes one")
    rows = [row_of(row.values, row.where) for row in read_rows(path)]
    return {row["video"]: [Utterance(**item) for item in row["items"]] for row in merged(rows)}


def row_of(values: dict, where: str) -> dict:
    """A row of a generation file, with numbers as numbers. An item may say "text" for response, and not when it began.

    Raises:
        UserError: another form.
    """
    try:
        items = []
        for item in values["items"]:
            said, end = item["response"] if "response" in item else item["text"], float(item["end_time"])
            items.append(Utterance(str(said), float(item.get("start_time", end)), end).row())
        first = min((item["start_time"] for item in items), default=0.0)
        begin = float(values.get("chunk_start", first))
        last = max((item["end_time"] for item in items), default=begin)
        return {
            "video": name_of(str(values["video"])),
            "chunk_start": begin,
            "chunk_end": float(values.get("chunk_end", last)),
            "items": items,
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{where}: not a row of a generation file ({error!r}): "
            "{video, chunk_start, chunk_end, items: [{response, start_time, end_time}]} is wanted"
        ) from error


def farthest_rows(rows: Iterable[dict]) -> list[dict]:
    """Rows by video and start; of those with one start the farthest-reaching stays, as in the public files."""
    best: dict[tuple[str, float], dict] = {}
    for row in rows:
        key = row["video"], row["chunk_start"]
        if key not in best or _reach(row) > _reach(best[key]):
            best[key] = row
    order = {video: i for i, video in enumerate(dict.fromkeys(video for video, _ in best))}
    return [best[key] for key in sorted(best, key=lambda key: (order[key[0]], key[1]))]


def _reach(row: dict) -> tuple[float, int]:
    return row["chunk_end"], len(row["items"])


def tidy_games(rows: Iterable[dict]) -> list[dict]:
    """Rows of an unfinished run, each once."""
    return farthest_rows(row_of(row, "an earlier run") for row in rows)


def merged(rows: Iterable[dict]) -> list[dict]:
    """One row a video. No second is told twice: of rows that overlap, the earlier one counts."""
    whole: dict[str, dict] = {}
    for row in farthest_rows(rows):
        one = whole.setdefault(row["video"], {**row, "items": []})
        last = max((item["end_time"] for item in one["items"]), default=-math.inf)
        one["items"] += sorted(
            (item for item in row["items"] if item["start_time"] >= last - 1e-6), key=lambda item: item["end_time"]
        )
        one["chunk_end"] = max(one["chunk_end"], row["chunk_end"])
    return list(whole.values())
