"""Jsonl annotation files: read with line numbers, write atomically, find the video of a record."""

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path

from swwatch.data.prepare.pe_video_rules import duration_seconds, is_unicode
from swwatch.errors import UserError

TEXTS = ("video_id", "human_caption", "question", "video_path")
SHOWN = 200  # characters of a bad text in a message
REQUIRED = ("video_id", "human_caption", "video_duration_in_s")


def read_jsonl(path: str | Path) -> list[dict]:
    """Read an annotation file such as `dataset/train_3_5.jsonl`; blank lines are skipped.

    Returns:
        The records in file order. `video_duration_in_s` is a float in seconds even where the file holds text.
    Raises:
        UserError: missing or empty file, text that is not UTF-8 or not a JSON object, a missing or ill-typed field,
            a repeated `video_id`; the message names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise no_file(path)
    records, line_of = [], {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = parse_line(line)
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
            first = line_of.setdefault(str(record["video_id"]), number)
            if first != number:
                raise UserError(f"{where}: video_id {record['video_id']} was already in line {first}; remove one")
            records.append(record)
    if not records:
        raise no_record(path)
    return records


def no_file(path: Path) -> UserError:
    return UserError(
        f"there is no annotation file {path}; `python mani_data.py` makes train and test annotations, and "
        "`swwatch chunk` conversations for streamingvlm and livecc"
    )


def no_record(path: Path) -> UserError:
    return UserError(f"{path} holds no record; the report beside it, if any, tells what the filter dropped")


def parse_line(line: bytes) -> dict:
    """The record in a line of an annotation file; `video_duration_in_s` is a float in seconds.

    Raises:
        UserError: it is none; the message does not say which line it is.
    """
    record = decode_line(line)
    if not isinstance(record, dict):
        raise UserError(f"a JSON object is wanted, this is {type(record).__name__}")
    missing = [field for field in REQUIRED if record.get(field) is None]
    if missing:
        raise UserError(f"no {', '.join(missing)}")
    if not isinstance(record["human_caption"], str):
        raise UserError(f"human_caption is {type(record['human_caption']).__name__}, not text")
    if not record["human_caption"].strip():
        raise UserError("human_caption is empty")
    refuse_halves({field: record.get(field) for field in TEXTS})
    if record.get("question") is not None and not (isinstance(record["question"], str) and record["question"].strip()):
        raise UserError(f"question {record['question']!r} is no text; without the field the prompts decide")
    if isinstance(record["video_id"], bool) or not isinstance(record["video_id"], int | str):
        raise UserError(f"video_id is {type(record['video_id']).__name__}, not a number or text")
    if not isinstance(record.get("video_path"), str | None):
        raise UserError(f"video_path is {type(record['video_path']).__name__}, not text")
    try:
        record["video_duration_in_s"] = duration_seconds(record)
    except ValueError:
        raise UserError(f"video_duration_in_s is not a number: {record['video_duration_in_s']!r}") from None
    return record


def refuse_halves(value) -> None:
    """Raises: UserError: a text in a JSON value holds half a character, which no tokenizer and no file takes."""
    if not is_unicode(json.dumps(value, ensure_ascii=False)):
        raise UserError(f"half a character, as if a text was cut within an emoji: {json.dumps(value)[:SHOWN]}")


def decode_line(line: bytes):
    """What a line of a jsonl file holds; a byte order mark before it is no part of it.

    Raises:
        UserError: it is no JSON in UTF-8.
    """
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text ({error.reason} at byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON ({error})") from None
    return value


def encode_line(record: dict) -> str:
    """One jsonl line; readable Unicode, or ASCII escapes where a string cannot be UTF-8 (lone surrogates)."""
    line = json.dumps(record, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(record)
    return line + "\n"


def write_atomic(path: Path, lines: Iterable[str]) -> None:
    """Write a text file so that a kill at any moment leaves either the old file or the whole new one.

    A pipe or a device (/dev/stdout) is written to, not replaced.
    """
    if path.exists() and (not path.is_file() or path.absolute().parent == Path("/dev")):
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.tmp")
    try:
        with tmp.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(tmp, path)
    except BaseException as error:
        tmp.unlink(missing_ok=True)  # what a full disk took of it
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a write that fails names no file
        raise


def video_places(record_path: str, jsonl_path: str | Path, video_root: str | Path | None = None) -> list[Path]:
    """Where the video of a record may lie, in the order of trying; see `resolve_video`."""
    given = Path(record_path)
    if video_root is not None:
        return [Path(video_root) / place for place in dict.fromkeys((given.name, str(given)))]
    if given.is_absolute():
        return [given]
    folder = Path(jsonl_path).absolute().parent
    return [given, folder / given, folder.parent / given]


def is_there(place: Path) -> bool:
    """Whether a file is there, which cannot be where its name is longer than a name can be."""
    try:
        return place.is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def resolve_video(record_path: str | None, jsonl_path: str | Path, video_root: str | Path | None = None) -> Path:
    """Find the video file that a record's `video_path` names.

    A relative path is tried from the working directory, the jsonl's folder and that folder's parent, so
    `dataset/PE-Video/videos/...` inside `dataset/train_3_5.jsonl` works from anywhere.

    Args:
        record_path: the record's `video_path`.
        jsonl_path: the annotation file the record came from.
        video_root: a folder that holds all videos, side by side or as their paths say.
    Raises:
        UserError: no such file; names every place that was tried.
    """
    if not record_path:
        raise UserError(f"{jsonl_path}: a record has no video_path; `python mani_data.py` fills it in")
    places = video_places(record_path, jsonl_path, video_root)
    for place in places:
        if is_there(place):
            return place
    tried = "\n  ".join(str(place.absolute()) for place in places)
    raise UserError(f"no video file for {record_path!r} of {jsonl_path}; tried\n  {tried}")


def seeks_file(path: Path) -> Path:
    """Where the offsets of a file's lines are kept beside it: NAME_with_seeks.jsonl -> NAME_seeks.jsonl."""
    return path.with_name(path.stem.removesuffix("_with_seeks") + "_seeks.jsonl")
