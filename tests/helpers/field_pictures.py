"""H.264 whose pictures are coded as two fields, which no encoder at hand does (ITU-T H.264, 7.3); PCM macroblocks."""

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.helpers.numbered_videos import HEIGHT, WIDTH, picture

CODED, BLOCK = 64, 16  # lines of the coded picture, and of a macroblock
TICK = Fraction(1, 50)  # a field
PARAMETERS, PICTURES, IDR, SLICE = 7, 8, 5, 1  # kinds of units


class Bits:
    def __init__(self):
        self._whole, self._text = bytearray(), ""

    def put(self, *fields: tuple[int, int]) -> "Bits":
        """(how many bits, value); 0 bits: in Golomb's code."""
        for count, value in fields:
            if not count:
                value += 1
                count = 2 * value.bit_length() - 1
            self._text += format(value, f"0{count}b")
        return self

    def append(self, data: bytes) -> None:
        """At the next whole byte."""
        padded = self._text + "0" * (-len(self._text) % 8)
        self._whole += int(padded or "0", 2).to_bytes(len(padded) // 8, "big") + data
        self._text = ""

    def unit(self, kind: int, is_reference: bool) -> bytes:
        self.put((1, 1)).append(b"")
        escaped = re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", bytes(self._whole))
        return b"\0\0\0\1" + bytes([is_reference << 5 | kind]) + escaped


def parameters() -> bytes:
    size = (0, WIDTH // BLOCK - 1), (0, CODED // BLOCK // 2 - 1)
    crop = (0, 0), (0, 0), (0, 0), (0, (CODED - HEIGHT) // 4)
    sequence = Bits().put((8, 77), (8, 0), (8, 30), (0, 0), (0, 0), (0, 0), (0, 4), (0, 2), (1, 0), *size)
    sequence.put((3, 0b001), (1, 1), *crop)  # has fields
    sequence.put((5, 0b10000), (1, 1), (32, 1), (32, TICK.denominator), (4, 0b1000))  # 50 fields a second
    sequence.put((2, 0b11), (0, 0), (0, 0), (0, 10), (0, 10), (0, 1), (0, 2))
    pictures = Bits().put((0, 0), (0, 0), (2, 0), (0, 0), (0, 0), (0, 0), (3, 0), (0, 0), (0, 0), (0, 0), (3, 0b100))
    return sequence.unit(PARAMETERS, True) + pictures.unit(PICTURES, True)


def field(luma: np.ndarray, is_bottom: bool, is_idr: bool, is_reference: bool, number: int, place: int) -> bytes:
    bits = Bits().put((0, 0), (0, 7), (0, 0), (4, number % 16), (1, 1), (1, is_bottom))
    bits.put(*[(0, 0)] * is_idr, (8, place), *[(1 + is_idr, 0)] * is_reference, (0, 0), (0, 1))
    for top in range(0, len(luma), BLOCK):
        for left in range(0, WIDTH, BLOCK):
            bits.put((0, 25)).append(luma[top : top + BLOCK, left : left + BLOCK].tobytes() + b"\x80" * 128)
    return bits.unit(IDR if is_idr else SLICE, is_reference)


def fields(count: int, group: int = 20) -> Iterator[tuple[int, bytes]]:
    """(when it is shown, its packet) of the fields of numbered pictures, every second of which is a B picture."""
    for start in range(0, count, group):
        shown = list(range(start, min(count, start + group)))
        order = shown[:1]
        for pair in zip(shown[1::2], shown[2::2], strict=False):
            order += pair[::-1]
        order += shown[len(order) :]
        references = 0
        for number in order:
            is_reference = (number - start) % 2 == 0 or number == shown[-1]
            luma = np.full((CODED, WIDTH), 16, np.uint8)
            luma[:HEIGHT] = np.where(picture(number)[..., 0] > 128, 235, 16)
            for second in (0, 1):
                is_idr = number == start and not second
                head = parameters() if is_idr else b""
                place = 2 * (number - start) + second
                data = field(luma[second::2], second, is_idr, is_reference, references, place)
                yield 2 * number + second, b"\0\0\0\1\x09\xf0" * (not second) + head + data
            references += is_reference


def write_fields(path: Path, count: int) -> Path:
    """A packet a field."""
    coded = list(fields(count))
    raw = path.with_suffix(".h264")
    raw.write_bytes(b"".join(data for _, data in coded))
    with av.open(str(raw)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        stream.time_base = TICK
        for number, (time, data) in enumerate(coded):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, TICK
            packet.pts, packet.dts = time, number - 2
            packet.is_keyframe = b"\0\0\1\x27" in data
            new.mux(packet)
    return path
