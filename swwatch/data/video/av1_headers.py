"""Which packets an AV1 packet refers to, read from its headers alone.

AV1 Bitstream & Decoding Process Specification, 5.3 to 5.9 and 7.20. A picture is kept in the slots that its
`refresh_frame_flags` name, with all that others may take over from it: samples, statistics, motion, segments, grain.
An inter picture names the seven slots that it may look into; nothing else of what was decoded before bears on it. Of
sequences in layers, with numbered pictures or with a model of the decoder's buffers nothing is said, nor of pictures
that check all slots (error resilient ones) or find theirs by rules.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

SEQUENCE, DELIMITER, HEADER, TILES, METADATA, FRAME, HEADER_AGAIN = range(1, 8)  # kinds of units (OBU)
PADDING = 15
RECORD, RECORD_BYTES = 0x81, 4  # what precedes the units in a container's extradata
KEY, INTER, _, SWITCH = range(4)  # kinds of pictures; the third: of itself alone
SLOTS, REFERENCES = 8, 7
HARMLESS = (DELIMITER, HEADER, TILES, FRAME, HEADER_AGAIN, PADDING)  # of no use but to the pictures with them
KNOWN = (*HARMLESS, SEQUENCE, METADATA)
SELECT = 2  # told with each picture


class Bits:
    """Reads a header bit by bit.

    Raises:
        EOFError: it ends too soon.
    """

    def __init__(self, data: bytes):
        self._value, self._left = int.from_bytes(data[:64], "big"), 8 * len(data[:64])

    def take(self, count: int = 1) -> int:
        self._left -= count
        if self._left < 0:
            raise EOFError("the header ends too soon")
        return self._value >> self._left & ((1 << count) - 1)


@dataclass(frozen=True)
class Sequence:
    """What a sequence header says of the headers of its pictures.

    Attributes:
        screen, whole_motion: whether the tools for screens are on, and motion is by whole pixels; or SELECT.
        order_bits: of a picture's place in the order of display.
    """

    screen: int
    whole_motion: int
    order_bits: int

    @classmethod
    def read(cls, data: bytes) -> "Sequence | None":
        """None for one of which nothing is said."""
        bits = Bits(data)
        bits.take(4)  # profile, a still picture
        is_reduced, has_timing = bits.take(), bits.take()
        if is_reduced:
            return None
        if has_timing:
            bits.take(64)
            if bits.take():  # all pictures stay equally long: how long, in Golomb's code
                zeros = 0
                while not bits.take():
                    zeros += 1
                bits.take(zeros)
            if bits.take():
                return None  # a model of the buffers
        has_delay, has_layers = bits.take(), bits.take(5)
        if has_layers:
            return None
        bits.take(12)
        if bits.take(5) > 7:
            bits.take()
        if has_delay and bits.take():
            bits.take(4)
        widths = bits.take(4), bits.take(4)
        bits.take(sum(widths) + 2)
        if bits.take():
            return None  # numbered pictures
        bits.take(7)  # tools
        has_order = bits.take()
        bits.take(2 * has_order)
        screen = SELECT if bits.take() else bits.take()
        whole_motion = SELECT if not screen or bits.take() else bits.take()
        return cls(screen, whole_motion, bits.take(3) + 1 if has_order else 0)

    def slots(self, data: bytes) -> tuple[list[int], int]:
        """Of a picture's header: the slots that it looks into, and, bit by bit, those that keep it.

        Raises:
            EOFError: nothing is said of it.
        """
        bits = Bits(data)
        if bits.take():
            return [bits.take(3)], 0  # it shows one that was decoded before
        kind, is_shown = bits.take(2), bits.take()
        if kind == KEY and is_shown:
            return [], (1 << SLOTS) - 1
        bits.take(not is_shown)  # may be shown later
        if kind in (KEY, SWITCH) or bits.take():
            raise EOFError("all slots are checked")
        bits.take()  # statistics
        screen = bits.take() if self.screen == SELECT else self.screen
        bits.take(bool(screen and self.whole_motion == SELECT))
        bits.take(1 + self.order_bits)  # a size of its own, place
        if kind != INTER:
            return [], bits.take(SLOTS)
        bits.take(3)  # which reference its statistics begin with
        slots = bits.take(SLOTS)
        if self.order_bits and bits.take():
            raise EOFError("slots are found by rules")
        return [bits.take(3) for _ in range(REFERENCES)], slots


class Av1Headers:
    """Reads the packets of one stream, in order.

    Args:
        extradata: of the stream, a container's record or units.
    """

    def __init__(self, extradata: bytes):
        self._sequence: Sequence | None = None
        self._holders = [0] * SLOTS  # which packet brought what each slot keeps
        self._number = -1
        units = extradata[RECORD_BYTES:] if extradata[:1] == bytes([RECORD]) else extradata
        with suppress(EOFError):
            for kind, data in _units(units):
                self._sequence = Sequence.read(data) if kind == SEQUENCE else self._sequence

    def of(self, packet: bytes) -> tuple[bool, frozenset[int] | None]:
        """Whether a packet brings nothing but pictures, and the numbers of those that it refers to; None: any."""
        self._number += 1
        needs: set[int] = set()
        try:
            units = list(_units(packet))
            kinds = {kind for kind, _ in units}
            if not kinds.issubset(KNOWN) or not kinds & {HEADER, FRAME}:
                raise EOFError("it may be damaged")
            for kind, data in units:
                if kind == SEQUENCE:
                    self._sequence = Sequence.read(data)
                if kind in (HEADER, FRAME):
                    needs |= self._picture(data)
        except EOFError:
            self._holders = [self._number] * SLOTS
            return False, None
        return kinds.issubset(HARMLESS), frozenset(needs - {self._number})

    def _picture(self, data: bytes) -> set[int]:
        """The packets that one picture refers to; it is put into its slots."""
        if self._sequence is None:
            raise EOFError("nothing is said of this sequence")
        looked_into, refreshed = self._sequence.slots(data)
        needs = {self._holders[slot] for slot in looked_into}
        for slot in range(SLOTS):
            if refreshed >> slot & 1:
                self._holders[slot] = self._number
        return needs


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, the beginning of its content) of each unit.

    Raises:
        EOFError: one is broken.
    """
    start = 0
    while start < len(data):
        kind, has_more, has_size = data[start] >> 3 & 15, data[start] >> 2 & 1, data[start] >> 1 & 1
        start += 1 + has_more
        length, place = (0, 0) if has_size else (len(data) - start, 0)
        while has_size:  # seven bits a byte, the lowest first
            if start >= len(data) or place > 49:
                raise EOFError("a unit has no length")
            length |= (data[start] & 127) << place
            has_size, place, start = data[start] >> 7, place + 7, start + 1
        if start + length > len(data):
            raise EOFError("a unit ends behind its packet")
        yield kind, data[start : start + min(length, 64)]
        start += length
