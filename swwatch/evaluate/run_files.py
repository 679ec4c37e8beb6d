"""The files of a run: where they lie, and the one reader of them.

Beside the predictions `<name>_infer.json` (one JSON object a line, the public release's form) lie `<name>_trace.jsonl`
(every token of every clip), `<name>_skipped.jsonl`, `<name>_run.json` (with what they were made),
`<name>_metrics.json` and, where a judge was asked, `<name>_judge.json`. Predictions may have suffered: cut, joined
twice, edited, or written by another program.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from swwatch.data.annotations import write_atomic
from swwatch.data.prepare.pe_video_rules import is_unicode
from swwatch.errors import UserError

COMPARED = ("annotation", "result", "task")  # two rows of a clip that agree in these say the same
SHOWN = 10  # ids in a message

_TOLD = {
    "cut_last_line": "the last line is cut and was left out",
    "identical_duplicates": "repeated lines that say the same, counted once",
    "without_reference": "clips without a reference in their line",
    "empty_captions": "empty captions, scored as bad captions",
}


@dataclass(frozen=True)
class RunFiles:
    """All that one evaluation left behind. The files are never changed; each is read when it is asked for.

    Attributes:
        path: of the predictions.
        rows: clip -> its prediction (`video_id`, `result`; `annotation` where there is a reference), in file order.
        problems: what was wrong with the predictions: cut_last_line (its line number), identical_duplicates (how many
            lines), without_reference and empty_captions (lists of clips).
        facts, metrics, judge: the objects of the other files; {} where there is none.
    """

    path: Path
    rows: dict[str, dict]
    problems: dict[str, int | list] = field(default_factory=dict)

    @cached_property
    def facts(self) -> dict:
        return read_object(self.beside("run.json"))

    @cached_property
    def metrics(self) -> dict:
        return read_object(self.beside("metrics.json"))

    @cached_property
    def judge(self) -> dict:
        return read_object(self.beside("judge.json"))

    @cached_property
    def tokens(self) -> dict[str, list[dict]]:
        """Clip -> its tokens, of every clip whose line in the trace is whole; {} without a trace."""
        return {key: line["tokens"] for key, (_, line) in read_lines(self.beside("trace.jsonl")).items()}

    @cached_property
    def skipped(self) -> list[dict]:
        return [line for _, line in read_lines(self.beside("skipped.jsonl")).values()]

    def beside(self, what: str) -> Path:
        return beside(self.path, what)

    def describe(self) -> list[str]:
        """One line a problem, with counts and the first ids."""
        lines = []
        for name, value in self.problems.items():
            if isinstance(value, list):
                lines.append(f"{len(value)} of {len(self.rows)} {_TOLD[name]}: {some(value)}")
            elif name == "cut_last_line":
                lines.append(f"line {value}: {_TOLD[name]}")
            else:
                lines.append(f"{value} {_TOLD[name]}")
        return lines

    def tell(self) -> "RunFiles":
        """Print the problems on stderr."""
        for line in self.describe():
            print(f"{self.path}: {line}", file=sys.stderr)
        return self


def read_run(path: Path) -> RunFiles:
    """Read the predictions of a run: one JSON object a line with `video_id`, `result` and mostly `annotation`.

    A last line that was cut by a kill is left out, a clip that stands there twice with equal content is taken once,
    a missing reference or an empty caption is listed: all of it is told in `problems`. What cannot be judged is an
    error, so that no line is lost in silence.

    Raises:
        UserError: no such file, nothing in it, text that is not UTF-8, a line that is no prediction, or a clip with
            contradicting lines. The message names the line and says what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no predictions file {path}: `swwatch eval` writes one (NAME_infer.json)")
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")  # the mark that some editors put before UTF-8
    rows: dict[str, dict] = {}
    line_of: dict[str, int] = {}
    problems: dict[str, int | list] = {}
    contradicting: dict[str, list[int]] = {}
    pieces = content.split(b"\n")
    for number, raw in enumerate(pieces, start=1):
        if not raw.strip():
            continue
        row = _parse(raw, f"{path}, line {number}", may_be_cut=number == len(pieces))
        if row is None:
            problems["cut_last_line"] = number
            continue
        key = str(row["video_id"])
        if key not in rows:
            rows[key], line_of[key] = row, number
        elif _said(row) == _said(rows[key]):
            problems["identical_duplicates"] = int(problems.get("identical_duplicates", 0)) + 1
        else:
            contradicting.setdefault(key, [line_of[key]]).append(number)
    if contradicting:
        places = "; ".join(f"{key}: lines {', '.join(map(str, n))}" for key, n in list(contradicting.items())[:SHOWN])
        raise UserError(
            f"{path}: {len(contradicting)} clips stand there more than once with different content ({places}"
            f"{'; ...' if len(contradicting) > SHOWN else ''}). Keep one line of each, or split the file by run"
        )
    if not rows:
        cut = " but a line that is cut" if problems else ""
        raise UserError(f"{path} is empty{cut}: run the evaluation again, or name another file")
    for name, clips in (
        ("without_reference", [key for key, row in rows.items() if not (row.get("annotation") or "").strip()]),
        ("empty_captions", [key for key, row in rows.items() if not row["result"].strip()]),
    ):
        if clips:
            problems[name] = clips
    return RunFiles(path, rows, problems)


def read_object(path: Path) -> dict:
    """The object of a JSON file that lies beside predictions; {} where there is no such file.

    Raises:
        UserError: it is there and holds something else.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a JSON file ({error}): remove it or make it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds {type(found).__name__}, not an object: remove it or make it again")
    return found


def write_object(path: Path, content: dict) -> None:
    """Write a JSON file."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    if not is_unicode(text):  # half a character, which a damaged file may hold, stays an escape
        text = json.dumps(content, indent=2)
    write_atomic(path, [f"{text}\n"])


def read_lines(path: Path, *, cut_tail: bool = True) -> dict[str, tuple[bytes, dict]]:
    """The lines of a result file: clip -> (the line as it is, its object).

    Args and errors as for `objects_in`; a line needs a video_id.
    """
    lines: dict[str, tuple[bytes, dict]] = {}
    for raw, record in objects_in(path, "video_id", cut_tail=cut_tail):
        lines.setdefault(str(record["video_id"]), (raw, record))
    return lines


def objects_in(path: Path, *needed: str, cut_tail: bool = True) -> Iterator[tuple[bytes, dict]]:
    """The lines of a result file, each as it is and as its object; none where there is no file.

    Args:
        needed: fields of every line.
        cut_tail: leave out what follows the last line end: what a kill left of a line is no result.
    Raises:
        UserError: a line is no JSON object, or lacks a field.
    """
    pieces = path.read_bytes().split(b"\n") if path.exists() else []
    for number, raw in enumerate(pieces[:-1] if cut_tail else pieces, start=1):
        if not raw.strip():
            continue
        try:
            record = json.loads(raw)
            if not isinstance(record, dict):
                raise TypeError("not an object")
            if lacking := [name for name in needed if name not in record]:
                raise KeyError(lacking[0])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}: not a result ({error!r}). Remove the line, or give --restart to begin anew"
            ) from error
        yield raw + b"\n", record


def beside(predictions: Path, what: str) -> Path:
    """group_infer.json -> group_<what>, in the same folder."""
    return predictions.with_name(f"{predictions.stem.removesuffix('_infer')}_{what}")


def told_apart(paths: Iterable[Sequence[str]], joint: str = "-") -> list[str]:
    """The shortest ends of paths, given as their parts, that tell all of them apart.

    Args:
        joint: stands between the parts of an end.
    Raises:
        UserError: two paths are alike.
    """
    paths = list(paths)
    for length in range(1, max(map(len, paths)) + 1):
        names = [joint.join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{' and '.join(names)} cannot be told apart by their names: rename a folder")


def in_folder(folder: Path, name: str) -> Path:
    """A bare name lies in the folder; a path is a path."""
    path = Path(name)
    return folder / path if path.name == str(path) else path


def some(clips: list) -> str:
    """The first few of a list of clips, as text."""
    return ", ".join(map(str, clips[:SHOWN])) + (", ..." if len(clips) > SHOWN else "")


def _said(row: dict) -> tuple:
    return tuple(row.get(name) for name in COMPARED)


def _parse(raw: bytes, where: str, *, may_be_cut: bool) -> dict | None:
    """The object of a line; None where the line is the file's last, has no line end and breaks off."""
    try:
        row = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        if may_be_cut and error.end == len(raw) and error.reason == "unexpected end of data":
            return None
        raise UserError(
            f"{where}: not UTF-8 text ({error.reason} at byte {error.start}). Save the file as UTF-8, for example "
            "`iconv -f LATIN1 -t UTF-8 OLD > NEW` with the encoding it was written in"
        ) from None
    except (ValueError, RecursionError) as error:
        if may_be_cut and raw.lstrip().startswith(b"{"):
            return None
        raise UserError(
            f"{where}: not valid JSON ({error}); one object a line is wanted. Mend or remove the line"
        ) from None
    problem = _problem(row)
    if problem:
        raise UserError(f"{where}: {problem}. Mend or remove the line")
    return row


def _problem(row: object) -> str | None:
    if not isinstance(row, dict):
        return f"a JSON object is wanted, this is {type(row).__name__}"
    if isinstance(row.get("video_id"), bool) or not isinstance(row.get("video_id"), int | str):
        return "no video_id" if row.get("video_id") is None else f"video_id {row['video_id']!r} is no number or text"
    if not isinstance(row.get("result"), str):
        return f"no caption: result is {row.get('result')!r}" if "result" in row else "no result, the caption"
    if not isinstance(row.get("annotation"), str | None):
        return f"annotation is {type(row['annotation']).__name__}, not text"
    return None
