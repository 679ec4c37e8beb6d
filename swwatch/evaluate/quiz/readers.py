"""From a benchmark's public files to flat rows, one a question: what a task's YAML names as its `reader`.

A row has all that its question needs, what is told once for several questions included. What a field means to a
question is said in the YAML, not here.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from swwatch.errors import UserError
from swwatch.evaluate.quiz.items import Round
from swwatch.evaluate.rows import FileRow, clock, read_rows

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


def moments(data: Path, parts: Mapping[str, Mapping]) -> Rows:
    """OVO-Bench's forward records as moments, each with `asked`, `due_s` and `last` in seconds.

    REC: a repetition, from the end of the one before to its own end, with their `count`. SSR: a step, from the
    beginning of the step before to its own, and on to its end. CRR: a clue, from when it is asked to the last test.
    """
    for row in read_rows(data):
        task = row.text("task")
        if task == "REC":
            ends = sorted(_times(row, "end_times"))
            for i, (asked_s, true) in enumerate(zip([0.0, *ends], ends, strict=False), start=1):
                yield row.with_values(number=i, count=i, asked=asked_s, due_s=true, last=true)
        elif task == "SSR":
            begins, ends, steps = _times(row, "start_time"), _times(row, "end_time"), row.texts("all_steps")
            if not len(begins) == len(ends) == len(steps):
                raise row.wrong(f"{len(steps)} steps begin {len(begins)} and end {len(ends)} times")
            before = 0.0
            for i, (true, last, step) in enumerate(sorted(zip(begins, ends, steps, strict=True))):
                asked_s, before = before, true
                yield row.with_values(number=i, step=step, asked=asked_s, due_s=true, last=last)
        elif task == "CRR":
            last = max(test.seconds("realtime") for test in row.rows("test_info"))
            yield row.with_values(number=0, asked=row.text("ask_time"), due_s=row.text("clue_time"), last=last)


def _times(row: FileRow, name: str) -> list[float]:
    return [FileRow({name: text}, row.where).seconds(name) for text in row.texts(name)]


def questions(data: Path, parts: Mapping[str, Mapping]) -> Rows:
    """StreamingBench: rows with a list `questions`, or a question a row whose question_id tells its sample.

    Each has its `number` among those of its video, and `earlier`, the rows of these.
    """
    questions_of: dict[str, list[FileRow]] = {}
    for row in read_rows(data):
        if "questions" not in row:
            found = re.search(r"sample_(\d+)_", row.text("question_id"))
            if not found:
                raise row.wrong(f"question_id {row.text('question_id')!r} names no sample_<number>")
            rows = [row.with_values(sample=f"sample_{found[1]}")]
        else:
            rows = [FileRow({**row.values, **question.values}, question.where) for question in row.rows("questions")]
        for question in rows:
            before = questions_of.setdefault(question.text("sample", "{video_path:below}"), [])
            yield question.with_values(number=len(before), earlier=tuple(before))
            before.append(question)


def chains(data: Path, parts: Mapping[str, Mapping]) -> Rows:
    """SVBench's dialogues: a row for each chain, with the `rounds` asked when its seconds are over."""
    for row, path in _of_videos(data, "Dialogue"):
        for number, chain in enumerate(_chains(path)):
            if chain is not None:
                questions, answers, end_s = chain
                rounds = [Round(*one, end_s) for one in zip(questions, answers, strict=True)]
                yield row.with_values(number=number, rounds=rounds)


def paths(data: Path, parts: Mapping[str, Mapping]) -> Rows:
    """SVBench's paths through all chains of a video: those of its folder Streaming or, where there is none, one.

    That is made of the links in Con: from the first linked question of a chain to the question of the next one that it
    is linked to.
    """
    if any(_folders(data, "Streaming")):
        for row, path in _of_videos(data, "Streaming"):
            for number, chain in enumerate(read_rows(path)):
                yield row.with_values(number=number, rounds=_path(chain))
        return
    for row, path in _of_videos(data, "Dialogue"):
        links = next((folder / path.name for folder in _folders(data, "Con") if (folder / path.name).is_file()), None)
        if links is None:
            raise UserError(f"{data} has neither paths of {path.stem} (Streaming) nor links of its chains (Con)")
        rounds = _hops(_chains(path), [_links(link) for link in read_rows(links)])
        yield row.with_values(number=0, rounds=rounds)


def _folders(data: Path, kind: str) -> list[Path]:
    known = (data / kind / f"{kind}_EN", data / f"{kind}_EN", data / kind)
    return [folder for folder in known if folder.is_dir() and any(folder.glob("*.json"))]


def _of_videos(data: Path, kind: str) -> Iterator[tuple[FileRow, Path]]:
    """(a row with `video` and, where the list of test videos tells it, `path`; the file) of each test video."""
    folder = next(iter(_folders(data, kind)), data)
    listed = data / "Meta" / "Meta_EN" / "meta_test.csv"
    listing = {row.text("Video_Name"): row for row in read_rows(listed)} if listed.is_file() else {}
    files = [path for path in sorted(folder.glob("*.json")) if not listing or path.stem in listing]
    if not files:
        raise UserError(f"{data} holds no json files of SVBench: give the folder that has {kind}/{kind}_EN")
    for path in files:
        facts = {"video": path.stem}
        if path.stem in listing and "Path_of_Video" in listing[path.stem]:
            facts["path"] = listing[path.stem].text("Path_of_Video")
        yield FileRow(facts, str(path)), path


def _chains(path: Path) -> list[tuple[list[str], list[str], float] | None]:
    """(questions, answers, end in seconds) of each chain; None of an empty one."""
    found = []
    for row in read_rows(path):
        chain = row.values.get("chain", row.values)
        if not isinstance(chain, Mapping):
            raise row.wrong(f"chain is no object: {chain!r}")
        if not chain.get("questions"):
            found.append(None)
            continue
        fields = FileRow(chain, row.where)
        questions, answers = fields.texts("questions"), fields.texts("answers")
        if len(questions) != len(answers):
            raise row.wrong(f"{len(questions)} questions have {len(answers)} answers")
        found.append((questions, answers, row.seconds("qac_timestamps_end")))
    return found


def _path(row: FileRow) -> list[Round]:
    questions, answers, times = row.texts("questions"), row.texts("answers"), row.values.get("timestamps") or []
    if not len(questions) == len(answers) == len(times):
        raise row.wrong(f"{len(questions)} questions have {len(answers)} answers and {len(times)} timestamps")
    ends_s = [FileRow({"end": span[-1]}, row.where).seconds("end") for span in times]
    return [Round(*one) for one in zip(questions, answers, ends_s, strict=True)]


def _links(row: FileRow) -> list[tuple[int, int]]:
    """(a question of this chain, the one of the next chain that it is linked to), numbers from 0."""
    fields = FileRow(row.values.get("relationship") or {}, row.where)
    if not isinstance(fields.values, Mapping):
        raise row.wrong(f"relationship is no object: {fields.values!r}")
    ends = [fields.texts(name) if fields.values.get(name) else [] for name in ("chainBefore", "chainAfter")]
    before, after = ([FileRow({"link": text}, row.where).index("link") for text in texts] for texts in ends)
    return list(zip(before, after, strict=False))


def _hops(chains: list[tuple[list[str], list[str], float] | None], links: list[list[tuple[int, int]]]) -> list[Round]:
    rounds, first = [], 0
    for i, chain in enumerate(chains):
        if chain is None:
            first = 0
            continue
        questions, answers, end_s = chain
        linked = [pair for pair in (links[i] if i < len(links) else ()) if pair[0] >= first]
        last, then = min(linked, default=(len(questions) - 1, 0))
        rounds += [Round(questions[j], answers[j], end_s) for j in range(first, min(last, len(questions) - 1) + 1)]
        first = then
    return rounds


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
    reader.__name__: reader for reader in (rows, parts, tests, moments, questions, chains, paths)
}
SUBTITLES: dict[str, Callable[[Path, FileRow, str], str]] = {"srt": srt, "longvideobench": longvideobench}
