"""From a decoded frame to a picture as FFmpeg shows it: RGB, turned and mirrored by its display matrix."""

import math
import struct
from fractions import Fraction

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type

TICK = Fraction(1, 1000)  # of frames without times
MATRIX = struct.Struct("=9i")


class Pictures:
    """Makes pictures of the frames of one stream.

    A frame whose side data was looked at is only freed by the garbage collector, so its display matrix is looked at
    once, and again where its angle changes.
    """

    def __init__(self, size: tuple[int, int] | None = None):
        """
        Args:
            size: width and height of all pictures before turning; None for each frame's own. A file whose size
                changes keeps the first one, turned as the first is, as with the ffmpeg command.
        """
        self.size = size
        self._graph: Graph | None = None
        self._form: tuple | None = None  # of the frames that the graph is made for
        self._angle: int | None = None
        self._matrix: tuple[int, ...] | None = None
        self._turned = 0  # degrees that are no quarter turns
        self._began_across: bool | None = None  # whether the first picture's rows became columns

    def of(self, frame: av.VideoFrame) -> np.ndarray:
        """(H, W, 3) uint8, RGB, as the source says that it is to be seen: a view of FFmpeg's own memory."""
        if frame.rotation != self._angle:
            self._angle, matrix = frame.rotation, frame.side_data.get(Type.DISPLAYMATRIX)
            self._matrix = None if matrix is None else MATRIX.unpack(bytes(matrix)[: MATRIX.size])
            self._turned, self._form = 0 if self._matrix is None else oblique(*self._matrix), None
        form = frame.width, frame.height, frame.format.name
        if form != self._form:
            self._graph = _scaler(frame, self._size(form[:2]), self._turned)
            self._form = form
        self._graph.push(frame)
        shown = self._graph.pull()
        (plane,) = shown.planes  # whose rows may be padded
        picture = np.ndarray((shown.height, shown.width, 3), np.uint8, plane, strides=(plane.line_size, 3, 1))
        return picture if self._matrix is None or self._turned else upright(picture, *self._matrix)

    def _size(self, own: tuple[int, int]) -> tuple[int, int]:
        """Width and height, before turning, of pictures whose frames have such ones."""
        across = self._matrix is not None and not self._turned and is_across(*self._matrix)
        if self._began_across is None:
            self._began_across = across
        if self.size is None:
            return own
        return self.size if across == self._began_across else self.size[::-1]


def _scaler(frame: av.VideoFrame, size: tuple[int, int], turned: int) -> Graph:
    """FFmpeg's own filter from frames of this form to RGB, which knows of fields, of ranges and of deep colours.

    Args:
        turned: degrees, clockwise, about the middle; what was there before them is black.
    """
    graph = Graph()
    graph.threads = 1
    chain = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or TICK
        ),
        *([graph.add("rotate", f"{turned}*PI/180")] if turned else []),
        graph.add("scale", f"{size[0]}:{size[1]}:flags=bicubic"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*chain).configure()
    return graph


def oblique(a: int, b: int, _u: int, c: int, d: int, *_: int) -> int:
    """Degrees by which a display matrix turns, clockwise; 0 for quarter turns. As the ffmpeg command reckons them."""
    across, down = math.hypot(a, c), math.hypot(b, d)
    if not across or not down:
        return 0
    turned = round(math.degrees(math.atan2(b / down, a / across))) % 360
    return turned if turned % 90 and turned != 1 else 0


def unconverted(frame: av.VideoFrame) -> str:
    """What is wrong with a frame that FFmpeg does not turn into RGB."""
    kind = f"{frame.format.name}, colour space {frame.colorspace}"
    return f"its colours ({kind}) cannot be shown: convert it (ffmpeg -i IN -vf zscale=matrix=709 OUT.mp4)"


def upright(picture: np.ndarray, a: int, b: int, _u: int, c: int, d: int, *_: int) -> np.ndarray:
    """A picture turned by quarters and mirrored. A pixel at (x, y) is to be shown at (a x + c y, b x + d y)."""
    if is_across(a, b, _u, c, d):
        picture, across, down = picture.transpose(1, 0, 2), c, b
    else:
        across, down = a, d
    return picture[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def is_across(a: int, b: int, _u: int, c: int, d: int, *_: int) -> bool:
    """Whether a display matrix makes columns of rows."""
    return abs(b) + abs(c) > abs(a) + abs(d)
