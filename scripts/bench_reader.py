"""How fast the frames of the 2 fps grid are read from a file: ours against decord, ffmpeg, torchcodec and plain PyAV.

    python scripts/bench_reader.py [--seconds 30] [--sizes 640x360 1920x1080] [--codecs h264 hevc vp9 av1] [--rounds 3]

Makes a clip of each codec and size, 30 frames a second, and reads its grid frames in full size and RGB in each way, in
a process of its own: the least clock and CPU seconds of the rounds, and the peak of memory. What is not installed is
left out. "same" tells whether the pictures are ours to the bit. Prints a table for people and, as the last line, one
JSON object for programs.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

RATE = 30
ENCODERS = {"h264": "libx264", "hevc": "libx265", "vp9": "libvpx-vp9", "av1": "libsvtav1"}
OPTIONS = {"hevc": {"x265-params": "log-level=error"}, "vp9": {"deadline": "realtime", "cpu-used": "6"}}
OPTIONS["av1"] = {"preset": "10"}


def make_clip(path: Path, codec: str, width: int, height: int, seconds: int) -> None:
    """A texture that moves across two others."""
    import av

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(ENCODERS[codec], rate=RATE, options=OPTIONS.get(codec, {}))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        shape = coarse.shape[:2]
        for number in range(seconds * RATE):
            picture = np.zeros((height, width, 3), np.uint8)
            picture[: shape[0], : shape[1]] = np.roll(coarse, (number, 3 * number), (0, 1)) // 2
            picture[height // 3 : height // 2] = np.roll(picture[height // 3 : height // 2], -5 * number, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def ours(path: Path, threads: int) -> np.ndarray:
    from swwatch.data.video import read_clip, source

    source.free_threads = lambda: threads
    return read_clip(path, max_frames=None).frames


def pyav(path: Path, threads: int) -> np.ndarray:
    """Every picture is converted."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type, stream.codec_context.thread_count = "FRAME", threads
        wanted, frames = set(grid_of(path)), []
        for number, frame in enumerate(container.decode(stream)):
            picture = frame.to_ndarray(format="rgb24")
            if number in wanted:
                frames.append(picture)
    return np.stack(frames)


def decord_all(path: Path, threads: int) -> np.ndarray:
    """Every picture is converted, in order, which is right in every file that decord reads."""
    import decord

    video, wanted = decord.VideoReader(str(path), num_threads=threads), set(grid_of(path))
    return np.stack([one for number in range(len(video)) for one in [video.next().asnumpy()] if number in wanted])


def decord_batch(path: Path, threads: int) -> np.ndarray:
    import decord

    return decord.VideoReader(str(path), num_threads=threads).get_batch(grid_of(path)).asnumpy()


def ffmpeg(path: Path, threads: int) -> np.ndarray:
    chosen = "+".join(f"eq(n\\,{number})" for number in grid_of(path))
    command = ["ffmpeg", "-v", "error", "-threads", str(threads), "-i", str(path), "-vf", f"select={chosen}"]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.uint8)


def torchcodec(path: Path, threads: int) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    video = VideoDecoder(str(path), num_ffmpeg_threads=threads, dimension_order="NHWC")
    return video.get_frames_at(grid_of(path)).data.numpy()


WAYS: dict[str, tuple[Callable[[Path, int], np.ndarray], Callable[[], object]]] = {
    "ours": (ours, lambda: True),
    "pyav, all converted": (pyav, lambda: True),
    "decord, in order": (decord_all, lambda: importlib.util.find_spec("decord")),
    "decord, get_batch": (decord_batch, lambda: importlib.util.find_spec("decord")),
    "ffmpeg": (ffmpeg, lambda: shutil.which("ffmpeg")),
    "torchcodec": (torchcodec, lambda: importlib.util.find_spec("torchcodec")),
}


def grid_of(path: Path) -> list[int]:
    """The numbers of the pictures on display at 0, 0.5, 1.0, ... s, 30 a second."""
    frames = round(float(path.stem.rpartition("_")[2]) * RATE)
    return list(range(0, frames, RATE // 2))


def peak_mb() -> int:
    """Of this process, or of ffmpeg. What rusage tells of this process begins with its parent's."""
    status = Path("/proc/self/status")
    own = re.search(r"VmHWM:\s+(\d+) kB", status.read_text() if status.exists() else "")
    kilobytes = int(own[1]) if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(max(kilobytes, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1e3)


def measure(way: str, path: Path, threads: int, rounds: int) -> dict:
    """One way, in this process."""
    read, clock_s, cpu_s = WAYS[way][0], [], []
    for _ in range(rounds + 1):  # the first one loads libraries
        start, used = time.perf_counter(), os.times()
        frames = read(path, threads)
        clock_s.append(time.perf_counter() - start)
        cpu_s.append(sum(os.times()[:4]) - sum(used[:4]))
    return {
        "clock_s": round(min(clock_s[1:]), 3),
        "cpu_s": round(min(cpu_s[1:]), 2),
        "peak_mb": peak_mb(),
        "digest": hashlib.blake2b(np.ascontiguousarray(frames).data, digest_size=8).hexdigest(),
    }


def main(argv: list[str]) -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--seconds", type=int, default=30, help="of each clip (%(default)s)")
    parser.add_argument("--sizes", nargs="+", default=["640x360", "1920x1080"], metavar="WxH")
    parser.add_argument("--codecs", nargs="+", default=list(ENCODERS), choices=ENCODERS)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="of the decoder (1 2)")
    parser.add_argument("--rounds", type=int, default=3, help="of each, the best counts (%(default)s)")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        way, path, threads, rounds = args.one
        print(json.dumps(measure(way, Path(path), int(threads), int(rounds))))
        return 0
    rows = []
    print(f"{'clip':<16} {'way':<20} {'threads':>7} {'clock s':>8} {'CPU s':>7} {'peak MB':>8}  same")
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            for codec in args.codecs:
                path = Path(folder) / f"{codec}_{size}_{args.seconds}.mp4"
                make_clip(path, codec, *map(int, size.split("x")), args.seconds)
                digest = None
                for threads in args.threads:
                    for way in [way for way, (_, is_there) in WAYS.items() if is_there()]:
                        command = [sys.executable, __file__, "--one", way, str(path), str(threads), str(args.rounds)]
                        done = subprocess.run(command, capture_output=True, text=True)
                        if done.returncode:
                            print(f"{codec + ' ' + size:<16} {way:<20} {threads:>7} cannot read it", flush=True)
                            continue
                        row = json.loads(done.stdout.splitlines()[-1])
                        digest = digest or row["digest"]
                        row = {"clip": f"{codec} {size}", "way": way, "threads": threads} | row
                        row["same"] = row.pop("digest") == digest
                        rows.append(row)
                        print(
                            f"{row['clip']:<16} {way:<20} {threads:>7} {row['clock_s']:8.3f} {row['cpu_s']:7.2f} "
                            f"{row['peak_mb']:8,}  {'yes' if row['same'] else 'no'}",
                            flush=True,
                        )
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    told = {"load": round(os.getloadavg()[0], 1), "python": platform.python_version(), "seconds": args.seconds}
    print(json.dumps(machine | told | {"rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
