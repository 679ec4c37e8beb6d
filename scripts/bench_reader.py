"""How fast the frames of the 2 fps grid are read from a file: ours against decord, ffmpeg, torchcodec and plain PyAV.

    bash scripts/bench_reader.sh [--seconds 30] [--sizes 640x360 1920x1080] [--codecs h264 hevc vp9 av1] [--rounds 3]

Makes a clip of each codec and size, 30 frames a second, and reads its grid frames in full size and RGB in each way. A
row is a clip and a number of threads. Every way has a process of its own, and they read in turns, one at a time, so
that what else runs on the machine weighs on all alike. A reading that is not counted comes first; it tells the peak of
memory, and how far its pictures are from ours: at most 2 of 255, or the bench ends with 1. What is not installed is
told and left out (torchcodec: `pip install torchcodec`, of the version that goes with this torch).

Clips and finished rows stay in the folder: run it again, and it goes on where it was, as long as the commit and the
readers are the same. Prints Markdown tables and, as the last line, one JSON object for programs.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

RATE = 30
TOLERANCE = 2  # of 255: how far values of one picture may be apart
ENCODERS = {"h264": "libx264", "hevc": "libx265", "vp9": "libvpx-vp9", "av1": "libsvtav1"}
OPTIONS = {
    "hevc": {"preset": "fast", "x265-params": "log-level=error"},
    "vp9": {"deadline": "realtime", "cpu-used": "6"},
}
OPTIONS["av1"] = {"preset": "10"}


def make_clip(path: Path, codec: str, width: int, height: int, seconds: int) -> None:
    """A texture that moves across two others."""
    import av

    if ENCODERS[codec] not in av.codecs_available:
        wheel = "PyAV's own wheel brings it (pip install av)"
        raise SystemExit(
            f"{codec} needs {ENCODERS[codec]}, which PyAV has not here: {wheel}; or leave it out (--codecs)"
        )
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    part = path.with_suffix(".part")
    with av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream(ENCODERS[codec], rate=RATE, options=OPTIONS.get(codec, {}))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        shape = coarse.shape[:2]
        for number in range(seconds * RATE):
            picture = np.zeros((height, width, 3), np.uint8)
            picture[: shape[0], : shape[1]] = np.roll(coarse, (number, 3 * number), (0, 1)) // 2
            picture[height // 3 : height // 2] = np.roll(picture[height // 3 : height // 2], -5 * number, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    part.replace(path)


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


def cpu_s() -> float:
    """Of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def serve(way: str, path: Path, threads: int, reference: Path) -> None:
    """Read once for every line that comes in, and tell of it in a line."""
    read, told = WAYS[way][0], None
    for _ in sys.stdin:
        start_s, used_s = time.perf_counter(), cpu_s()
        frames = read(path, threads)
        answer = {"clock_s": time.perf_counter() - start_s, "cpu_s": cpu_s() - used_s}
        if told is None:
            told = {"peak_mb": peak_mb()}
            if way == "ours":
                np.save(reference, frames)
            told["apart"] = apart(frames, np.load(reference, mmap_mode="r"))
            answer |= told
        del frames
        print(json.dumps(answer), flush=True)


def apart(frames: np.ndarray, reference: np.ndarray) -> int:
    """The largest difference of two values; 255 where there are not as many."""
    if frames.size != reference.size:
        return 255
    pairs = zip(frames.reshape(reference.shape), reference, strict=True)
    return max(int(np.abs(one.astype(np.int16) - other).max()) for one, other in pairs)


def measure(path: Path, threads: int, rounds: int, ways: list[str]) -> dict[str, dict | str]:
    """All ways on a clip, in turns: what each came to, or why it cannot."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, ExitStack() as stack:
        workers, found = {}, {}
        for way in ways:
            errors = stack.enter_context((Path(folder) / "errors").open("w+"))
            command = [sys.executable, __file__, "--one", way, str(path), str(threads), f"{folder}/ours.npy"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors, "text": True}
            worker = stack.enter_context(subprocess.Popen(command, **pipes))
            stack.callback(worker.kill)
            first = ask(worker)
            if first is None:
                errors.seek(0)
                found[way] = (errors.read().splitlines() or ["it ended"])[-1]
                if way == "ours":
                    raise SystemExit(f"ours cannot read {path.name}: {found[way]}")
                continue
            workers[way] = worker
            found[way] = {"peak_mb": first["peak_mb"], "apart": first["apart"], "clock_s": [], "cpu_s": []}
        for number in range(rounds):
            for way in list(workers)[:: -1 if number % 2 else 1]:
                answer = ask(workers[way])
                if answer is None:
                    raise SystemExit(f"{way} ended while it read {path.name} once more")
                for key in ("clock_s", "cpu_s"):
                    found[way][key].append(answer[key])
    return found


def ask(worker: subprocess.Popen) -> dict | None:
    """A reading of a worker; None where it ends instead."""
    try:
        worker.stdin.write("read\n")
        worker.stdin.flush()
    except BrokenPipeError:
        return None
    line = worker.stdout.readline()
    return json.loads(line) if line else None


def row_names(sizes: list[str], codecs: list[str], seconds: int, threads: list[int]) -> dict[str, tuple]:
    """Name of each row: size, codec, threads."""
    rows = [(size, codec, count) for size in sizes for codec in codecs for count in threads]
    return {f"{codec} {size}, {seconds} s, {count}": (size, codec, count) for size, codec, count in rows}


def times_of(found: dict, _: dict) -> str:
    return f"{statistics.median(found['cpu_s']):.2f} ({statistics.median(found['clock_s']):.2f})"


def ratio_of(found: dict, ours: dict) -> str:
    ratios = [one / other for one, other in zip(found["cpu_s"], ours["cpu_s"], strict=True)]
    ends = f" ({min(ratios):.2f} to {max(ratios):.2f})" if min(ratios) < max(ratios) else ""
    far = f", differs by {found['apart']}" if found["apart"] else ""
    return f"{statistics.median(ratios):.2f}{ends}{far}"


def peak_of(found: dict, _: dict) -> str:
    return f"{found['peak_mb']:,}"


TABLES = {"CPU s (clock s)": times_of, "CPU time, of ours": ratio_of, "peak MB": peak_of}


def line_of(row: dict, ways: list[str], cell: Callable[[dict, dict], str]) -> str:
    cells = ["cannot" if isinstance(found, str) else cell(found, row["ours"]) for found in (row[way] for way in ways)]
    return f"| {row['row']} | {' | '.join(cells)} | {row['load']} |"


def versions(ways: list[str]) -> dict[str, str]:
    """Of what reads."""
    names = [name for name in ("av", "decord", "torchcodec") if importlib.util.find_spec(name)]
    found = {name: importlib.metadata.version(name) for name in names}
    if "ffmpeg" in ways:
        told = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout
        found["ffmpeg"] = told.split()[2]
    return found


def commit() -> str:
    where = ["git", "-C", str(ROOT)]
    head = subprocess.run([*where, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changes = subprocess.run([*where, "status", "--porcelain", "-uno"], capture_output=True, text=True)
    return (head.stdout.strip() or "unknown") + (" and changes" if changes.stdout else "")


def parse(argv: list[str]) -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--seconds", type=int, default=30, help="of each clip (%(default)s)")
    parser.add_argument("--sizes", nargs="+", default=["640x360", "1920x1080"], metavar="WxH")
    parser.add_argument("--codecs", nargs="+", default=list(ENCODERS), choices=ENCODERS)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="of the decoder (1 2)")
    parser.add_argument("--rounds", type=int, default=3, help="readings of each that count (%(default)s)")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "bench_reader", help="(%(default)s)"
    )
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in ("seconds", "rounds", *(["threads"] if min(args.threads) < 1 else [])):
        if name == "threads" or getattr(args, name) < 1:
            parser.error(f"--{name}: at least 1")
    for size in args.sizes:
        if not re.fullmatch(r"[1-9]\d{1,2}[02468]x[1-9]\d{1,2}[02468]", size):
            parser.error(f"--sizes: WIDTHxHEIGHT, even and of at least 100, such as 640x360, not {size!r}")
    return args


def main(argv: list[str]) -> int:
    args = parse(argv)
    if args.one:
        way, path, threads, reference = args.one
        serve(way, Path(path), int(threads), Path(reference))
        return 0
    for way in [way for way, (_, is_there) in WAYS.items() if not is_there()]:
        print(f"{way} is not installed here, and left out")
    ways = [way for way, (_, is_there) in WAYS.items() if is_there()]
    asked = {"commit": commit(), "rounds": args.rounds, "ways": ways, "versions": versions(ways)}
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, (size, codec, threads) in row_names(args.sizes, args.codecs, args.seconds, args.threads).items():
        kept = args.folder / f"{re.sub('[ ,]+', '_', name)}.json"
        row = json.loads(kept.read_text()) if kept.exists() else {}
        if row.get("asked") != asked:
            path = args.folder / f"{codec}_{size}_{args.seconds}.mp4"
            if not path.exists():
                make_clip(path, codec, *map(int, size.split("x")), args.seconds)
            load = round(os.getloadavg()[0], 1)
            row = {"row": name, "asked": asked, "load": load} | measure(path, threads, args.rounds, ways)
            part = kept.with_suffix(".part")
            part.write_text(json.dumps(row))
            part.replace(kept)
        rows.append(row)
        print(line_of(row, ways, times_of), flush=True)
    for title, cell in TABLES.items():
        print(f"\n{title}\n\n| clip, seconds, threads | {' | '.join(ways)} | load |")
        print("|---|" + "---:|" * (len(ways) + 1))
        print("\n".join(line_of(row, ways, cell) for row in rows))
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    print("\n" + json.dumps(machine | asked | {"rows": rows}))
    found = [row[way] for row in rows for way in ways]
    return int(any(one["apart"] > TOLERANCE for one in found if not isinstance(one, str)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
