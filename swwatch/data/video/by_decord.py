"""The same grid by decord, for whoever wants the reader of LiveCC's own release: an explicit choice, `reader: decord`.

decord's random access (`get_batch`) and `skip_frames` return wrong frames in open groups of pictures and in fragmented
MP4, and its MPEG-TS frames are off by many; `next` from the start is exact in MP4, Matroska and AVI. So every frame is
read in order. On a broken fragment it may end the process.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from swwatch.data.video.container import check_file
from swwatch.data.video.frames import VideoError
from swwatch.data.video.timetable import Timetable


class DecordFile:
    """As reader.VideoFile.

    Raises:
        VideoError: it cannot be read.
    """

    def __init__(self, path: Path):
        check_file(path)
        os.environ.setdefault("DECORD_EOF_RETRY_MAX", "20480")  # some files make decord ask again and again at the end
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self._errors = (decord.DECORDError, RuntimeError)  # the second where its Python side notices
        self.path = path
        try:
            self._source = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
            times_s = self._source.get_frame_timestamp(range(len(self._source))).astype(np.float64)  # (N, 2)
        except self._errors as error:
            raise VideoError(path, "decord cannot open it: leave out `reader: decord`") from error
        if not len(times_s):
            raise VideoError(path, "it has no frames")
        starts_s = times_s[:, 0] - times_s[0, 0]
        if (np.diff(starts_s) < 0).any() or not np.isfinite(times_s).all():
            raise VideoError(path, "decord tells no usable times of its frames: leave out `reader: decord`")
        self.table = Timetable(starts_s, starts_s, float(times_s[-1, 1] - times_s[0, 0]))

    def pictures(self, wanted: Sequence[int], to_end: bool = False) -> Iterator[np.ndarray]:
        """As VideoFile.pictures; it can be called once.

        Raises:
            VideoError: damage.
        """
        last = len(self._source) - 1 if to_end else wanted[-1]
        numbers = set(wanted)
        for number in range(last + 1):
            try:
                picture = self._source.next()
            except (*self._errors, StopIteration) as error:
                reason = f"one of its {len(self._source)} frames cannot be decoded: the file is damaged"
                raise VideoError(self.path, reason) from error
            if number in numbers:
                yield picture.asnumpy()
