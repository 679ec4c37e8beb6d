"""Small videos whose pictures show their own number, so that it is plain which one was read."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH, CELL = 48, 64, 16  # 12 cells: the bits of a frame's number, so that compression cannot blur it
RATE = Fraction(25)


def picture(number, size=(HEIGHT, WIDTH)):
    """(H, W, 3) uint8; `size` is (height, width), multiples of 3 and 4."""
    bits = [(number >> bit) & 1 for bit in range(12)]
    cell = np.full((size[0] // 3, size[1] // 4), 255, np.uint8)
    return np.kron(np.array(bits, np.uint8).reshape(3, 4), cell)[..., None].repeat(3, 2)


def number_of(frame):
    height, width = frame.shape[0] // 3, frame.shape[1] // 4
    cells = frame[: 3 * height, : 4 * width, 0].reshape(3, height, 4, width).mean((1, 3)).reshape(-1) > 128
    return int(sum(1 << bit for bit in np.flatnonzero(cells)))


def numbers_in(clip):
    return [number_of(frame) for frame in clip.frames]


def write(
    path: Path,
    pts,
    time_base,
    *,
    codec="libx264",
    container=None,
    options=None,
    movflags="",
    rate=25,
    sound_s=0,
    size=(HEIGHT, WIDTH),
    pix_fmt="yuv420p",
    first=0,
    format_options=None,
):
    """Frames that show their own number, from `first` on, at the given times; sound beside them when `sound_s`."""
    pts = list(pts)
    format_options = dict(format_options or {}) | ({"movflags": movflags} if movflags else {})
    with av.open(str(path), "w", format=container, options=format_options) as file:
        stream = None
        if pts:
            stream = file.add_stream(codec, rate=rate, options=options or {})
            stream.height, stream.width = size
            stream.pix_fmt = pix_fmt
            stream.codec_context.time_base = time_base
        sound = file.add_stream("aac", rate=16000) if sound_s else None
        for number, time in enumerate(pts, first):
            frame = av.VideoFrame.from_ndarray(picture(number, size), format="rgb24")
            frame.pts, frame.time_base = int(time), time_base
            file.mux(stream.encode(frame))
        if stream:
            file.mux(stream.encode())
        if sound:
            for i in range(sound_s * 16000 // 1024):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.rate, frame.pts = 16000, i * 1024
                file.mux(sound.encode(frame))
            file.mux(sound.encode())
    return path


def write_constant(path, rate, num_frames, **options):
    return write(path, range(num_frames), 1 / rate, rate=rate, **options)


def remux(source: Path, target: Path, change: Callable[[int, av.Packet], bool], **format_options: str) -> Path:
    """Copy a file's packets without encoding; `change` may alter one and says whether it stays."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=format_options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if packet.size and change(number, packet):
                packet.stream = stream
                new.mux(packet)
    return target


def matrix_of(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """Write a display matrix into an MP4 file: a pixel at (x, y) is to be shown at (a x + c y, b x + d y)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    for offset, value in zip((0, 4, 12, 16), (a, b, c, d), strict=True):
        data[at + offset : at + offset + 4] = round(value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path
