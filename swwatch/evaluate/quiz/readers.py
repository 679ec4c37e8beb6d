"""From a benchmark's public files to flat rows, one a question: what a task's YAML names as its `reader`.

A row has all that its question needs, what is told once for several questions included. What a field means to a
question is said in the YAML, not here.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from swwatch.errors import UserError
from swwatch.evaluate.quiz.rows import FileRow, clock, read_rows

Rows = Iterator[FileRow]


def rows(data: Path, parts: Mapping[str, Mapping]) -> Rows:
    """A row a question, as it is."""
    yield from read_rows(data)


def parts(data: Path, parts: Mapping[str, Mapping]) -> Rows:
    """A json file a part in one folder, those that are there; or one tsv whose rows name their part (task_type).

    Args:
        parts: part -> its `file` and what else its rows have; without `bounded` they have no start and no end.
    """
    if data.suffix.lower() == ".tsv":
        for row in read_rows(data):
            if row.text("task_type") not in parts:
                raise row.wrong(f"no task of MVBench: {row.text('task_type')!r}")
            yield _of_part(row, row.text("task_type"), parts, row.index("index"))
        return
    if not data.is_dir():
        raise UserError(f"{data} is no folder: MVBench has one json file for each task, give their folder by --data")
    found = {part: data / f"{facts['file']}.json" for part, facts in parts.items()}
    if not any(path.is_file() for path in found.values()):
        raise UserError(f"{data} holds no annotation file of MVBench, such as action_sequence.json")
    for part, path in found.items():
        if path.is_file():
            yield from (_of_part(row, part, parts, number) for number, row in enumerate(read_rows(path)))


def _of_part(row: FileRow, part: str, parts: Mapping[str, Mapping], number: int) -> FileRow:
    span = {} if parts[part].get("bounded") else {"start": None, "end": None}
    return row.with_values(**parts[part], **span, part=part, number=number)


def tests(data: Path, parts: Mapping[str, Mapping]) -> Rows:
    """OVO-Bench: a row is a question, or has a list `test_info` of the moments at which one question is asked."""
    for row in read_rows(data):
        if "test_info" not in row:
            yield row
            continue
        for i, test in enumerate(row.rows("test_info")):
            yield FileRow({**row.values, **test.values, "number": i}, test.where)


def questions(data: Path, parts: Mapping[str, Mapping]) -> Rows:
    """StreamingBench: rows with a list `questions`, or a question a row whose question_id tells its sample."""
    asked: Counter[str] = Counter()
    for row in read_rows(data):
        if "questions" not in row:
            found = re.search(r"sample_(\d+)_", row.text("question_id"))
            if not found:
                raise row.wrong(f"question_id {row.text('question_id')!r} names no sample_<number>")
            yield row.with_values(sample=f"sample_{found[1]}")
            continue
        path = row.text("{video_path:below}")
        for question in row.rows("questions"):
            yield FileRow({**row.values, **question.values, "number": asked[path]}, question.where)
            asked[path] += 1


def srt(folder: Path, row: FileRow, video: str) -> str:
    """The words of a subtitle file of Video-MME, without numbers and times; "" where there is no file."""
    path = folder / f"{video}.srt"
    if not path.is_file():
        return ""
    said = []
    for block in path.read_text(encoding="utf-8-sig", errors="replace").replace("\r\n", "\n").split("\n\n"):
        lines = block.strip().split("\n")
        times = next((i for i, line in enumerate(lines) if "-->" in line), None)
        if times is not None:
            said += [line.strip() for line in lines[times + 1 :] if line.strip()]
    return " ".join(said)


def longvideobench(folder: Path, row: FileRow, video: str) -> str:
    """What is said in a clip, of subtitles that count from the beginning of the video that it was cut from."""
    path = folder / PurePosixPath(row.text("subtitle_path")).name
    if not path.is_file():
        return ""
    begin_s, length_s = row.number("starting_timestamp_for_subtitles"), row.number("duration")
    said = []
    try:
        for one in json.loads(path.read_text(encoding="utf-8-sig")):
            words = one["text"] if "timestamp" in one else one["line"]
            start, end = one["timestamp"] if "timestamp" in one else (clock(one["start"]), clock(one["end"]))
            if float(start) < begin_s + length_s and (end is None or float(end) > begin_s):
                said.append(words.strip())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} holds no subtitles of LongVideoBench: {error!r}") from error
    return " ".join(said)


READERS: dict[str, Callable[[Path, Mapping], Rows]] = {
    reader.__name__: reader for reader in (rows, parts, tests, questions)
}
SUBTITLES: dict[str, Callable[[Path, FileRow, str], str]] = {"srt": srt, "longvideobench": longvideobench}
