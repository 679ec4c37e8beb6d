"""Finds pictures of a stream that never come: neither an error nor a picture came of their packets.

So it is with H.265 where packets were lost on the way: what refers to them is passed over up to the next key frame.
"""

import av

from swwatch.data.video.references import Prover

LATEST = 48  # packets that a picture may lag behind its own: the deepest reordering (16) and threads, with room


class Losses:
    """Of one stream, from its first picture on.

    Attributes:
        count: pictures that are known to be lost.
    """

    def __init__(self, context: av.VideoCodecContext):
        self.count = 0
        self._codec, self._prover = context.name, Prover(context.name, context.extradata)
        self._is_interlaced = False
        self._awaited: list[tuple[int, int]] = []  # (number, time) of packets whose pictures have not come
        self._number, self._lost = 0, -1  # of the newest packet; of the newest one that was lost
        self._first: int | None = None

    def take(self, packet: av.Packet) -> None:
        """A packet is decoded next."""
        self._number += 1
        if packet.pts is None or packet.is_discard or not packet.size:
            return
        if self._codec == "vp8" and self._prover.of(bytes(packet), packet.is_keyframe).is_hidden:
            return
        self._awaited.append((self._number, packet.pts))
        if len(self._awaited) > LATEST:
            self._lose(*self._awaited.pop(0))

    def failed(self) -> None:
        """A packet could not be decoded, and that was told."""
        if self._awaited:
            self._awaited.pop()

    def came(self, frame: av.VideoFrame) -> None:
        """A picture has come."""
        self._is_interlaced |= frame.interlaced_frame
        self._first = frame.pts if self._first is None else self._first
        for place, (_, pts) in enumerate(self._awaited):
            if pts == frame.pts:
                del self._awaited[place]
                return

    def end(self) -> None:
        """No picture comes any more."""
        while self._awaited:
            self._lose(*self._awaited.pop(0))

    def _lose(self, number: int, pts: int) -> None:
        """Nothing is lost before the first picture, nor with a packet of an interlaced one's second field."""
        is_field = self._is_interlaced and number - self._lost > 1
        self._lost = number
        if self._first is not None and pts > self._first and not is_field:
            self.count += 1
