"""Conversations in jsonl files of any size, read one by one where somebody has written down where each line begins.

A line is a list of messages, {"role", "content": [{"type": "video" | "image" | "text" | "text_stream", ...}]}. The
byte offsets of the lines are a JSON list beside the file (NAME_seeks.jsonl for NAME.jsonl or NAME_with_seeks.jsonl,
StreamingVLM's style) or in its last line (LiveCC's); where there are none the file is read once.
"""

import codecs
import hashlib
import json
import os
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from swwatch.data.annotations import decode_line, no_file, refuse_halves, seeks_file
from swwatch.data.records import LOOKS, Records, _scan, _stamp
from swwatch.data.turns.dialogue import messages_of
from swwatch.errors import UserError

TAIL = 1 << 24  # bytes read at once from the end, to find the last line
SAMPLES = 64  # lines that a fingerprint looks at where the offsets are known
MEDIA = ("video", "image")


class SeekFile(Records):
    """The conversations of one file, as `parse_conversation` gives them.

    Attributes:
        sha256: of the file; where the offsets are given, of its size, the offsets and some lines, which takes no
            longer for a file of tens of GB.
        style: "beside", "last line" or "none": where the offsets were.
    Raises:
        UserError: missing or empty file, or offsets that do not fit it.
    """

    wanted = (
        'A line is a JSON list of messages, {"role": "user", "content": [...]} first, with a video or an image: '
        "`swwatch chunk` makes such files"
    )

    def __init__(self, path: str | Path):
        self.path, self._fd, self._has_blanks = Path(path), None, False
        if not self.path.is_file():
            raise no_file(self.path)
        self._stamp = _stamp(os.stat(self.path))
        end, in_file = _last_line(self.path)
        beside = seeks_file(self.path)
        if beside.is_file():
            self.style, offsets, where = "beside", _read_offsets(beside.read_bytes()), str(beside)
            if offsets is None:
                raise UserError(f"{beside} is no JSON list of byte offsets: remove it, or write the file anew")
        elif in_file is not None:
            self.style, offsets, where = "last line", in_file, f"the last line of {self.path}"
        else:
            self.style, offsets = "none", None
        if offsets is None:
            self._starts, self._has_blanks, self.sha256 = _scan(self.path)
        else:
            self._starts = _checked(offsets, end, where)
            self._check_begins(range(0, len(self), -(-len(self) // LOOKS)), where)
            self.sha256 = self._fingerprint()
        if not len(self):
            raise UserError(f"{self.path} holds no conversation")

    def line(self, index: int) -> bytes:
        """The text of a conversation.

        Raises:
            UserError: its offset is not the beginning of a line, or more than a line lies before the next one.
        """
        index = range(len(self))[index]
        self._check_begins([index], "the list of offsets")
        text = super().line(index).strip()
        if b"\n" in text:
            raise UserError(f"the offsets of {self.path} leave out lines behind record {index + 1}: write them anew")
        return text

    def _parse(self, index: int) -> dict:
        conversation = parse_conversation(self.line(index))
        return {"video_id": f"{self.path.stem}/{self.number(index)}", "file": str(self.path)} | conversation

    def _check_begins(self, indices: Sequence[int], where: str) -> None:
        for start in self._starts[list(indices)].tolist():
            if start and os.pread(self._file(), 1, start - 1) != b"\n":
                raise UserError(f"{where}: byte {start} of {self.path} begins no line: write the offsets anew")

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(self._starts.numpy().tobytes())
        for index in sorted({i * (len(self) - 1) // (SAMPLES - 1) for i in range(SAMPLES)}):
            digest.update(self.line(index))
        return digest.hexdigest()


class Conversations(Sequence):
    """The conversations of several files, one file after another; a file named twice is there twice.

    Attributes:
        sha256: of all files; of a single one, its own.
    Raises:
        UserError: as SeekFile.
    """

    def __init__(self, paths: Sequence[str | Path]):
        opened = {path: SeekFile(path) for path in dict.fromkeys(map(Path, paths))}
        self.files = [opened[Path(path)] for path in paths]
        self._ends = list(accumulate(map(len, self.files)))
        digests = [file.sha256 for file in self.files]
        self.sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict:
        """One conversation; errors as Records."""
        index = range(len(self))[index]
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.files[number][index - (self._ends[number - 1] if number else 0)]

    def check(self, max_bad_fraction: float) -> list[str]:
        """As Records.check, file by file."""
        return [reason for file in dict.fromkeys(self.files) for reason in file.check(max_bad_fraction)]


def parse_conversation(line: bytes) -> dict:
    """The conversation in a line, or in a record of Think-While-Watching.

    Returns:
        `video_path` of its video or image, and `messages`, whose contents are lists.
    Raises:
        UserError: it is none, or has no video or image, or several.
    """
    messages = decode_line(line)
    if b"\\u" in line:
        refuse_halves(messages)
    if isinstance(messages, dict) and "conversations" in messages:
        messages = messages_of(messages)
    if not isinstance(messages, list) or not messages:
        raise UserError(f"a JSON list of messages is wanted, this is {type(messages).__name__}")
    turns = [_message(message) for message in messages]
    roles = [message["role"] for message in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2):
        raise UserError(f"user and assistant must take turns, not {', '.join(roles)}")
    media = [part for message in turns for part in message["content"] if part["type"] in MEDIA]
    if len(media) != 1 or media[0] not in turns[0]["content"]:
        raise UserError(f"a conversation has one video or image, in its first message; this one has {len(media)}")
    path = media[0].get(media[0]["type"])
    if not isinstance(path, str) or not path:
        raise UserError(f"the path of the {media[0]['type']} is {path!r}, not text")
    return {"video_path": path, "messages": turns}


def _message(message) -> dict:
    try:
        role, content = message["role"], message["content"]
        content = [{"type": "text", "text": content}] if isinstance(content, str) else content
        kinds = [part["type"] for part in content]
    except (KeyError, TypeError):
        raise UserError(f'a message has "role" and "content", parts with a "type"; this is {message!r}') from None
    unknown = set(kinds) - {*MEDIA, "text", "text_stream"}
    if unknown:
        raise UserError(f"a part of the type {min(map(str, unknown))!r}: known are video, image, text and text_stream")
    return {"role": role, "content": content}


def _last_line(path: Path) -> tuple[int, list[int] | None]:
    """Where the lines of conversations end, and the offsets in the last line, if it holds any."""
    size, tail = path.stat().st_size, b""
    start = size
    with path.open("rb") as file:
        while start > 0 and b"\n" not in tail.strip():
            length = min(TAIL, start)
            start -= length
            file.seek(start)
            tail = file.read(length) + tail
    body = tail.rstrip()
    begin = body.rfind(b"\n") + 1
    offsets = _read_offsets(body[begin:])
    return (size, None) if offsets is None else (start + begin, offsets)


def _read_offsets(text: bytes) -> list[int] | None:
    """The numbers of a JSON list of them; None for anything else."""
    first = text[:32].removeprefix(codecs.BOM_UTF8).lstrip(b"[ ").split(b",")[0].strip(b"] \n")
    if not first.isdigit():  # which spares reading what is no such list
        return None
    try:
        offsets = json.loads(text.removeprefix(codecs.BOM_UTF8))
    except ValueError:
        return None
    return offsets if isinstance(offsets, list) and all(type(offset) is int for offset in offsets) else None


def _checked(offsets: list[int], end: int, where: str) -> torch.Tensor:
    starts = np.array([*offsets, end], np.int64)
    if (np.diff(starts) <= 0).any() or starts[0] != 0:
        raise UserError(
            f"{where}: offsets must begin with 0 and rise, below {end}, where the lines end: write them anew"
        )
    return torch.from_numpy(starts)
