"""What can be said of a video file before any library opens it: it is there, whole, and claims nothing absurd.

Demuxers play the beginning of a cut file as if that were all, and make room for every picture that a file claims to
have, however few bytes it has.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from swwatch.data.video.frames import VideoError

MP4_BEGINS = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
MP4_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")
TAIL = 256  # bytes
UNKNOWN = 0xFFFFFFFF  # bytes of an AVI file that was written to a pipe; 0 where the writer was killed
SAMPLE_SIZES, RUN = b"stsz", b"trun"  # boxes with a count of samples


def check_file(path: Path) -> None:
    """Refuse what is no file, is cut short, or claims more pictures than it has bytes.

    Raises:
        VideoError: says which.
    """
    if path.is_dir():
        raise VideoError(path, "it is a folder")
    if not path.exists():
        raise VideoError(path, "there is no such file")
    if not path.is_file():
        raise VideoError(path, "it is no regular file")
    try:
        size = path.stat().st_size
        if not size:
            raise VideoError(path, "the file is empty")
        with path.open("rb") as file:
            promised = _promised_size(path, file, size)
    except OSError as error:
        raise VideoError(path, f"it cannot be read ({error.strerror})") from error
    if promised > size:
        raise VideoError(path, f"it is cut short: {size} of {promised} bytes are there; copy or download it again")


def is_whole(path: Path) -> bool:
    """Whether nothing speaks against a file."""
    try:
        check_file(path)
    except VideoError:
        return False
    return True


def _promised_size(path: Path, file: BinaryIO, size: int) -> int:
    """How many bytes the container says the file has (at least); 0 where it does not say."""
    head = file.read(64)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        raise VideoError(path, "it is WebP, which is no video here: make a GIF of it (magick IN.webp OUT.gif)")
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        riff_bytes = int.from_bytes(head[4:8], "little")
        if riff_bytes not in (0, UNKNOWN):
            return 8 + riff_bytes
        _check_tail(path, file, size)
        return 0
    if head[:4] == b"\x1aE\xdf\xa3":  # Matroska: an EBML header, then one segment that holds all the rest
        header_bytes, header_length = _ebml_size(head, 4)
        start = 4 + header_length + (header_bytes or 0)
        segment_bytes, segment_length = _ebml_size(head, start + 4)
        _check_tail(path, file, size)
        return 0 if segment_bytes is None else start + 4 + segment_length + segment_bytes
    if head[4:8] not in MP4_BEGINS:
        _check_tail(path, file, size)
        return 0
    end, kinds = 0, set()
    for kind, start, length in _boxes(file, 0, size):
        kinds.add(kind)
        if kind in (SAMPLE_SIZES, RUN) and _samples(file, kind, start) > size:
            raise VideoError(path, "it claims more pictures than it has bytes: the file is damaged")
        if kind in (b"moov", b"moof", b"mdat"):
            end = max(end, start + length)
    if b"moof" in kinds and end < size and not _is_box(file, end):
        raise VideoError(path, f"its parts end after {end} of {size} bytes: the file is damaged")
    return end


def _check_tail(path: Path, file: BinaryIO, size: int) -> None:
    """Refuse zeros at the end, as a download leaves them that has room for what never came."""
    file.seek(max(0, size - TAIL))
    if size > TAIL and not file.read(TAIL).strip(b"\0"):
        raise VideoError(path, "it ends in zeros: the file is damaged or incomplete; copy or download it again")


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its content begins, bytes of content) of MP4 boxes, those within others included."""
    while start + 8 <= end:
        file.seek(start)
        head = file.read(16)
        length, kind, header = int.from_bytes(head[:4], "big"), head[4:8], 8
        if length == 1:
            length, header = int.from_bytes(head[8:16], "big"), 16
        if length < header:  # 0: up to the end of the file; anything else is not a box
            return
        yield kind, start + header, length - header
        if kind in MP4_PARENTS:
            yield from _boxes(file, start + header, min(start + length, end))
        start += length


def _is_box(file: BinaryIO, start: int) -> bool:
    file.seek(start)
    return file.read(8)[4:8].isalnum()


def _samples(file: BinaryIO, kind: bytes, start: int) -> int:
    """How many samples a box claims."""
    file.seek(start)
    head = file.read(12)
    return int.from_bytes(head[8:12] if kind == SAMPLE_SIZES else head[4:8], "big")


def _ebml_size(data: bytes, start: int) -> tuple[int | None, int]:
    """A Matroska size field: (value or None for "unknown", bytes it takes, which its leading zero bits say)."""
    if start >= len(data) or not data[start]:
        return None, 1
    length = 9 - data[start].bit_length()
    value = int.from_bytes(data[start : start + length], "big") - (1 << 7 * length)
    return (None if value == (1 << 7 * length) - 1 else value), length
