"""`swwatch chunk`: cut timestamped transcripts into overlapping training chunks, StreamingVLM's form.

A chunk of W seconds begins every W - O seconds and knows all that was said before it. Chunks in which little is said
are left out. Input: jsonl of {"video", "content": [[start, end, word], ...]}, optionally "title" and "duration".
Output: jsonl whose lines are conversations (see data.turns.dataset), with the byte offset of every line in a file
beside it (OUT_seeks.jsonl) or in the last line. Source: arXiv 2510.09608, section 2.2; the authors' chunker is not
public.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from swwatch.config import REQUIRED, read_settings, setting
from swwatch.data.annotations import decode_line, seeks_file, write_atomic
from swwatch.data.turns.transcript import Transcript, Word, text_of
from swwatch.errors import UserError
from swwatch.paths import only_one_writes
from swwatch.rules.systems import get

WINDOW_S, OVERLAP_S = 24.0, 12.0
WORDS_PER_SECOND = 2  # the least that is said in a chunk


@dataclass(frozen=True)
class Chunk:
    """A span of a video, what is said in it, and what was said before, with a space before it as a stream holds it."""

    start_s: float
    end_s: float
    words: tuple[Word, ...]
    previous: str

    def record(self, video: str, query: str, title: str | None = None) -> list[dict]:
        """A conversation in the public files' form."""
        question = {"type": "text", "text": query, "previous": self.previous}
        if title:
            question["title"] = title
        span = {"type": "video", "video": video, "video_start": self.start_s, "video_end": self.end_s}
        said = {"type": "text_stream", "text_stream": [list(word) for word in self.words]}
        return [{"role": "user", "content": [span, question]}, {"role": "assistant", "content": [said]}]


def chunks(
    transcript: Transcript,
    duration_s: float | None = None,
    *,
    window_s: float = WINDOW_S,
    overlap_s: float = OVERLAP_S,
    min_words: int | None = None,
) -> Iterator[Chunk]:
    """Overlapping chunks of a transcript.

    Args:
        duration_s: of the video; by default the end of the last word. No chunk ends behind it, so the last one of a
            video may be shorter than the window.
        min_words: words that a chunk must have; by default two for each second of the window.
    Raises:
        UserError: an overlap that is not smaller than the window.
    """
    if not 0 <= overlap_s < window_s:
        raise UserError(f"an overlap of {overlap_s:g} s does not go with a window of {window_s:g} s: make it smaller")
    least = WORDS_PER_SECOND * window_s if min_words is None else min_words
    if duration_s is None:
        duration_s = transcript.words[-1].end_s if transcript.words else 0.0
    number = 0
    while (start_s := number * (window_s - overlap_s)) < duration_s:
        end_s = min(start_s + window_s, duration_s)
        words = transcript.between(start_s, end_s)
        if len(words) >= least:
            before = text_of(transcript.before(start_s))
            yield Chunk(start_s, end_s, words, before and f" {before}")
        if end_s == duration_s:
            return  # a further one would only repeat the end of this one
        number += 1


def write_chunks(source: Path, out: Path, *, query: str, seeks: str, **options) -> dict[str, int]:
    """Chunk every transcript of a file; `out` appears when it is complete.

    Args:
        seeks: where the byte offsets of the lines go: "beside" (OUT_seeks.jsonl), "last-line" or "none".
        options: of `chunks`.
    Returns:
        Counts: videos, chunks, words in them, words mended.
    Raises:
        UserError: `source` cannot be read, or a line is no transcript.
    """
    counts = dict.fromkeys(("videos", "chunks", "words", "mended"), 0)
    offsets, end, part = [], 0, out.with_name(out.name + ".part")
    try:
        lines = source.open("rb")
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror}") from error

    def written() -> Iterator[str]:
        nonlocal end
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            video, title, duration_s, transcript = _read(line, f"{source}, line {number}")
            counts["videos"] += 1
            counts["mended"] += transcript.mended
            for chunk in chunks(transcript, duration_s, **options):
                offsets.append(end)
                text = json.dumps(chunk.record(video, query, title), ensure_ascii=False) + "\n"
                end += len(text.encode())
                counts["chunks"] += 1
                counts["words"] += len(chunk.words)
                yield text
        if seeks == "last-line":
            yield json.dumps(offsets)

    with only_one_writes(out), lines:
        write_atomic(part, written())
        seeks_file(out).unlink(missing_ok=True)  # of an earlier file of this name, which they would not fit
        os.replace(part, out)
        if seeks == "beside":
            write_atomic(seeks_file(out), [json.dumps(offsets)])
    return counts


def _read(line: bytes, where: str) -> tuple[str, str | None, float | None, Transcript]:
    """(video, title, seconds that it lasts, what is said) of a line of transcripts."""
    try:
        row = decode_line(line)
        video, content, title = row["video"], row["content"], row.get("title")
        duration_s = None if row.get("duration") is None else float(row["duration"])
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{where}: need an object with "video" and "content"') from error
    return video, title, duration_s, Transcript.read(content, where)


@dataclass(frozen=True, kw_only=True)
class ChunkSettings:
    """Flags of `swwatch chunk`."""

    transcripts: Path = setting(REQUIRED, "jsonl of videos with timestamped words", positional=True)
    out: Path = setting(REQUIRED, "training file to write, such as train_with_seeks.jsonl", positional=True)
    window: float = setting(WINDOW_S, "seconds of a chunk")
    overlap: float = setting(OVERLAP_S, "seconds that two chunks share")
    min_words: int | None = setting(None, "words that a chunk must have (default: two a second)")
    query: str = setting(get("streamingvlm").query, "what the user asks")
    seeks: Literal["beside", "last-line", "none"] = setting(
        "beside", "where line offsets go: beside, last-line or none"
    )


def main(argv: list[str]) -> int:
    settings = read_settings(ChunkSettings, argv, program="swwatch chunk", about=__doc__)
    out = settings.out
    spans = {"window_s": settings.window, "overlap_s": settings.overlap, "min_words": settings.min_words}
    counts = write_chunks(settings.transcripts, out, query=settings.query, seeks=settings.seeks, **spans)
    print(f"{out}: {counts['chunks']} chunks of {counts['videos']} videos, {counts['words']} words")
    if counts["mended"]:
        print(f"{counts['mended']} words began behind their end; their times were exchanged")
    if not counts["chunks"]:
        print("no chunk has enough words: lower --min-words")
    return 0
