"""When each picture of a file is shown, from its packets alone, or, where these cannot tell, from decoding it once;
and which is on display at a grid time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from swwatch.data.video.frames import TIME_TOLERANCE_S, VideoError
from swwatch.data.video.references import PROVEN, Proof, Prover
from swwatch.data.video.source import CONVERT, Clock, decoded, opened, packets_of, stated_end_s, stream_end
from swwatch.rules.schedule import FPS

MAX_DURATION_S = 7 * 86_400  # beyond it the file's times are garbage
MOST_UNEVEN = 1.5  # the longest time between two pictures, of the shortest
PROMISED_S = 0.25  # a file may end so much before the length that it states


@dataclass(frozen=True)
class Packets:
    """The packets of the shown stream, in the order of the file; P of them.

    Attributes:
        pts, dts: (P,) int64, in the stream's time base.
        order: (N,) which packets hold the N pictures, in the order in which they are shown.
        spare: (P,) bool: nothing refers to its picture but what tells so in `needs`.
        entry: (P,) bool: decoding may begin here.
        needs: of each, the spare packets that it refers to; None: it may refer to any before.
    """

    pts: np.ndarray
    dts: np.ndarray
    order: np.ndarray
    spare: np.ndarray
    entry: np.ndarray
    needs: list[frozenset[int] | None]

    def needed(self, wanted: Sequence[int]) -> np.ndarray:
        """(P,) bool: which packets are decoded for the sake of the pictures of these numbers."""
        needed = ~self.spare
        needed[self.order[list(wanted)]] = True
        for number in range(len(needed) - 1, -1, -1):
            needs = self.needs[number]
            if needed[number] and needs is None:
                needed[:number] = True
            elif needed[number] and needs:
                needed[list(needs)] = True
        return needed


@dataclass(frozen=True)
class Timetable:
    """N pictures in the order in which they are shown.

    Attributes:
        pts: (N,) int64, when each is shown, in the stream's time base.
        starts_s: (N,) float64, the same in seconds from the first; end_s: when the last one ends.
        packets: None where the times are those of decoded pictures.
        is_cut_in: the file begins between key frames.
    """

    pts: np.ndarray
    starts_s: np.ndarray
    end_s: float
    packets: Packets | None = None
    is_cut_in: bool = False

    @classmethod
    def make(cls, path: Path, pts: list[int], last: int, time_base, **how) -> "Timetable":
        """Args: last: how long the last picture stays, in the time base; 0 where that is not known."""
        shown = np.array(pts, np.int64)
        starts_s = (shown - shown[0]).astype(np.float64) * float(time_base)
        last_s = float(last * time_base) or (starts_s[-1] - starts_s[-2] if len(shown) > 1 else 0.0)
        if (np.diff(shown) < 0).any() or starts_s[-1] > MAX_DURATION_S:
            raise VideoError(path, f"its frames carry no usable times: {CONVERT}")
        return cls(shown, starts_s, float(starts_s[-1] + last_s), **how)


def by_packets(path: Path) -> Timetable:
    """The timetable of a file, or of its decoded pictures where the packets alone do not tell it.

    Raises:
        VideoError: no video, or one that breaks off.
    """
    pts, dts, lasts, proofs, shown = [], [], [], [], []
    reached_s, is_cut = -math.inf, False
    with opened(path) as (container, stream):
        context, time_base = stream.codec_context, stream.time_base
        prover, clock = Prover(context.name, context.extradata), Clock(container, stream)
        try:
            for packet in packets_of(container):
                if packet.pts is not None:
                    reached_s = max(reached_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream_index != stream.index or not packet.size:
                    continue
                is_cut_in = not pts and not packet.is_keyframe
                if packet.pts is None or is_cut_in:
                    return by_pictures(path, is_cut_in)
                is_cut = packet.is_corrupt
                proof = prover.of(bytes(packet), packet.is_keyframe)
                if not packet.is_discard and not proof.is_hidden:
                    shown.append(len(pts))
                pts.append(packet.pts)
                dts.append(packet.pts if packet.dts is None else packet.dts)
                lasts.append(packet.duration or 0)
                proofs.append(proof)
        except av.FFmpegError as error:
            raise VideoError(path, "it breaks off: the file is damaged or cut short") from error
        # an MP4's list of samples is what it states, and was read to its end
        stated_s = None if container.format.name.startswith("mov") else stated_end_s(container)
        end = stream_end(container, stream)
    if is_cut:
        raise VideoError(path, "it breaks off in the middle of a picture: the file is damaged or cut short")
    if stated_s is not None and reached_s < stated_s - PROMISED_S:
        missing_s = f"{stated_s - reached_s:.2f} s are missing"
        raise VideoError(path, f"it breaks off, {missing_s} at its end: the file is damaged or cut short")
    if not shown:
        raise VideoError(path, "it has no frames")
    if clock.is_needed:
        return by_pictures(path)
    times = np.array(pts, np.int64)
    order = np.array(shown)[np.argsort(times[shown], kind="stable")]
    entry, needs = np.array([proof.is_entry for proof in proofs]), [proof.needs for proof in proofs]
    if entry.all() and context.name not in PROVEN:
        entry[1:] = False  # who calls every picture a key frame knows of none, as raw H.261 and MP4 without a list
    spare = _spare(proofs)
    if any(needs) and not _is_even(times[order]):
        spare[:] = False  # packets may be lost, of which only a full decode tells
    packets = Packets(times, np.array(dts, np.int64), order, spare, entry, needs)
    last = lasts[order[-1]]
    if end is not None and end > times[order[-1]]:
        last = min(last, end - int(times[order[-1]]))
    table = Timetable.make(path, times[order].tolist(), last, time_base, packets=packets)
    # what is shown before the first packet's picture may refer to what was cut off
    return by_pictures(path, promised=table) if table.pts[0] < pts[0] else table


def by_pictures(path: Path, is_cut_in: bool = False, promised: Timetable | None = None) -> Timetable:
    """The timetable of what can be decoded, for files whose packets do not tell: it costs decoding them once.

    Args:
        is_cut_in: the file begins between key frames.
        promised: what the packets tell. Pictures may be missing at the beginning, and one of two where each packet
            holds a field of an interlaced picture.
    Raises:
        VideoError: damage, or no usable times.
    """
    pts, last, is_interlaced = [], 0, False
    with opened(path) as (container, stream):
        clock = Clock(container, stream)
        for frame in decoded(path, stream.codec_context, packets_of(container, stream), clock, is_cut_in):
            if frame.pts is None:
                raise VideoError(path, f"its frames carry no usable times: {CONVERT}")
            pts.append(frame.pts)
            last = frame.duration or 0
            is_interlaced |= frame.interlaced_frame
        time_base = stream.time_base
    if not pts:
        raise VideoError(path, "none of its frames can be decoded: the file is damaged")
    if promised is not None:
        is_lost = ~np.isin(promised.pts[promised.pts >= pts[0]], pts)
        if is_lost.any() and not (is_interlaced and not (is_lost[1:] & is_lost[:-1]).any()):
            reason = f"{is_lost.sum()} of its {len(promised.pts)} frames cannot be decoded: the file is damaged"
            raise VideoError(path, reason)
    return Timetable.make(path, pts, last, time_base, is_cut_in=is_cut_in)


def _is_even(pts: np.ndarray) -> bool:
    """Whether pictures follow each other at one rate, but for how times are rounded."""
    steps = np.diff(pts)
    return not len(steps) or steps.max() <= MOST_UNEVEN * steps.min()


def _spare(proofs: list[Proof]) -> np.ndarray:
    """(P,) bool: nothing refers to the packet's picture, which in H.265 holds for the highest sub-layer alone."""
    highest = max(proof.layer for proof in proofs)
    return np.array([proof.is_spare and proof.layer == highest for proof in proofs])


def spread_indices(starts_s: np.ndarray, end_s: float, begin_s: float, count: int) -> np.ndarray:
    """`count` frames of those that begin in [begin_s, end_s), or all, evenly spread from the first to the last.

    Returns:
        (G,) indices into `starts_s`; at least one. The rule of qwen_vl_utils' `nframes`.
    """
    first, behind = np.searchsorted(starts_s, np.array([begin_s, end_s]) - TIME_TOLERANCE_S)
    first = min(first, len(starts_s) - 1)  # else the one on display
    behind = max(behind, first + 1)
    return np.linspace(first, behind - 1, min(count, behind - first)).round().astype(int)


def grid_indices(starts_s: np.ndarray, end_s: float, begin_s: float = 0.0, fps: float = FPS) -> np.ndarray:
    """Which source frame is on display at each grid time.

    Args:
        starts_s: (N,) display time of each frame, ascending, the first one 0.
        end_s: end of the last frame, or of the span.
        begin_s: the first grid time; fps: grid times in a second.
    Returns:
        (G,) indices into `starts_s` for the times begin_s, begin_s + 1 / fps, ... < `end_s`; at least one.
    """
    num_grid = max(1, int(np.ceil((end_s - begin_s - TIME_TOLERANCE_S) * fps)))
    grid_s = begin_s + np.arange(num_grid) / fps
    return np.searchsorted(starts_s, grid_s + TIME_TOLERANCE_S, side="right") - 1
