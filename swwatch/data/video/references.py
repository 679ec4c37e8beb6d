"""What a packet's first bytes prove without decoding: that nothing refers to its picture, or that decoding may begin.

Where nothing is proven every packet is decoded. H.264: ITU-T H.264, 7.3.1 and 7.4.1; a picture whose slices all have
nal_ref_idc 0 is no reference, and leaves no trace in what is decoded after it. H.265: ITU-T H.265, 7.3.1.2 and
7.4.2.2; a sub-layer non-reference picture of the highest sub-layer is none. A packet that brings anything else along,
such as parameter sets, is always decoded. AV1: see `av1_headers`. A VP9 picture takes motion and statistics over from
the one decoded before it, whatever that refreshes, so there nothing is proven.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from swwatch.data.video.av1_headers import Av1Headers

AV1 = ("libdav1d", "libaom-av1", "av1")
INTRA = ("mjpeg", "prores", "rawvideo", "png", "dnxhd", "jpeg2000")  # each picture stands alone
PROVEN = ("h264", "hevc", *INTRA)  # entries of others are what the container calls key frames
H264_SLICE, H264_IDR, H264_HARMLESS = 1, 5, (6, 9, 12)  # supplemental information, delimiter, filler
UNKNOWN = b"\xff\xff"  # the head of a unit that proves nothing
H265_SLICES, H265_ENTRIES, H265_HARMLESS = 32, range(16, 22), (35, 38, 39, 40)


@dataclass(frozen=True)
class Proof:
    """Of one packet.

    Attributes:
        is_spare: nothing refers to its picture but what says so itself (`needs`); of H.265, nothing in its sub-layer.
        is_entry: pictures shown from this one on need none before it.
        layer: its temporal sub-layer.
        is_hidden: its picture is never shown.
        needs: numbers of packets that its pictures refer to, where they are spare; None: it may refer to any before.
    """

    is_spare: bool = False
    is_entry: bool = False
    layer: int = 0
    is_hidden: bool = False
    needs: frozenset[int] | None = frozenset()


class Prover:
    """Reads the packets of one stream.

    Args:
        codec: FFmpeg's name of its decoder.
        extradata: of the stream; of H.264 and H.265 it says how packets are cut into units.
    """

    def __init__(self, codec: str, extradata: bytes | None):
        self.codec, self.length_bytes = codec, 0  # 0: units follow a start code
        record = extradata or b""
        self._av1 = Av1Headers(record) if codec in AV1 else None
        if codec == "h264" and len(record) > 6 and record[0] == 1:
            self.length_bytes = (record[4] & 3) + 1
        elif codec == "hevc" and len(record) > 22 and record[:3] != b"\0\0\1" and record[:4] != b"\0\0\0\1":
            self.length_bytes = (record[21] & 3) + 1

    def of(self, data: bytes, is_key: bool) -> Proof:
        """What a packet proves; `is_key`: as its container says."""
        if self.codec == "h264":
            return self._h264(data)
        if self.codec == "hevc":
            return self._h265(data)
        if self._av1 is not None:
            is_spare, needs = self._av1.of(data)
            return Proof(is_spare, is_key, needs=needs)
        if self.codec in INTRA:
            return Proof(is_spare=True, is_entry=True)
        return Proof(is_entry=is_key, is_hidden=self.codec == "vp8" and not data[0] & 0x10)

    def _h264(self, data: bytes) -> Proof:
        heads = [head[0] for head in self._units(data)]
        kinds = [head & 31 for head in heads]
        slices = [head >> 5 & 3 for head, kind in zip(heads, kinds, strict=True) if kind == H264_SLICE]
        known = all(kind == H264_SLICE or kind in H264_HARMLESS for kind in kinds)
        return Proof(known and bool(slices) and not any(slices), H264_IDR in kinds)

    def _h265(self, data: bytes) -> Proof:
        heads = [(head[0] >> 1 & 63, (head[1] & 7) - 1) for head in self._units(data)]
        slices = [(kind, layer) for kind, layer in heads if kind < H265_SLICES]
        known = all(kind < H265_SLICES or kind in H265_HARMLESS for kind, _ in heads)
        spare = known and bool(slices) and all(kind < 16 and kind % 2 == 0 for kind, _ in slices)
        entry = any(kind in H265_ENTRIES for kind, _ in slices)
        return Proof(spare, entry, max((layer for _, layer in slices), default=0))

    def _units(self, data: bytes) -> Iterator[bytes]:
        """The first two bytes of each unit; UNKNOWN for a broken one, behind which nothing is looked for."""
        if not self.length_bytes:
            start = data.find(b"\0\0\1")
            while start >= 0:
                head = data[start + 3 : start + 5]
                yield head if len(head) == 2 else UNKNOWN
                start = data.find(b"\0\0\1", start + 3)
            return
        start = 0
        while start < len(data):
            length = int.from_bytes(data[start : start + self.length_bytes], "big")
            start += self.length_bytes
            if length < 2 or start + length > len(data):
                yield UNKNOWN
                return
            yield data[start : start + 2]
            start += length
