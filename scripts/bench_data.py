"""How long a training's data takes to open, and how much memory: annotations as an index against all in memory.

    python scripts/bench_data.py [--lines 20000 1000000]

Writes annotation files of made-up records of PE-Video's size (no videos) and, in a process of its own for each way and
size, opens the file, checks it, draws the order of an epoch and reads the first 1,000 records in it. Then packs are
planned from made-up lengths. Then a clip of 20 s in 640 x 360 is encoded over and over, decoded each time or with its
frames from the cache on disk. CPU seconds are this process's; memory is what it gained at its peak. Prints a table for
people and, as the last line, one JSON object for programs.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

FIRST = 1000  # records read in the order of an epoch
PACK_TOKENS = 8192
WORDS = "a red circle moving left behind the tall blue square while someone slowly walks into the room".split()


def write_records(path: Path, count: int) -> None:
    """An annotation file of `count` records of about 600 bytes."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for video_id in range(count):
            duration = rng.uniform(5, 30)
            caption = f"The video shows {' '.join(rng.choices(WORDS, k=round(duration * 4)))}."
            record = {"video_id": video_id, "human_caption": caption, "video_duration_in_s": round(duration, 3)}
            record["video_path"] = f"dataset/PE-Video/videos/train/{video_id}.mp4"
            file.write(json.dumps(record) + "\n")


def opened(path: Path) -> None:
    """As training opens it."""
    from swwatch.data.dataset import EpochOrder
    from swwatch.data.records import Records

    records = Records(path)
    records.check(0.01)
    for _, index in islice(EpochOrder(len(records), seed=0), FIRST):
        records[index]


def loaded(path: Path) -> None:
    """With every record in memory."""
    from swwatch.data.annotations import read_jsonl
    from swwatch.data.dataset import EpochOrder

    records = read_jsonl(path)
    for _, index in islice(EpochOrder(len(records), seed=0), FIRST):
        records[index]


def planned(path: Path) -> None:
    """Packs for as many samples, from lengths that are known."""
    from swwatch.data.packing import PackOrder, PackPlan
    from swwatch.data.records import Records

    rng = random.Random(0)
    lengths = [rng.randint(400, 2300) for _ in range(len(Records(path)))]
    list(islice(PackOrder(PackPlan(lengths, PACK_TOKENS, seed=0)), FIRST))


WAYS: dict[str, Callable[[Path], None]] = {"index": opened, "all in memory": loaded, "index and packs": planned}


def clip_times(rounds: int = 20) -> list[dict]:
    """CPU milliseconds to encode a clip, decoded or with its frames from the disk."""
    import av
    import numpy as np
    from transformers import Qwen2VLVideoProcessor

    from swwatch.data.budget import BUDGETS
    from swwatch.data.frame_cache import FrameCache, how_made
    from swwatch.data.pixels import FrameEncoder
    from swwatch.data.video import read_clip

    encoder, rng, rows = FrameEncoder(Qwen2VLVideoProcessor(), BUDGETS["declared"]), np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=25)
            stream.height, stream.width, stream.pix_fmt = 360, 640, "yuv420p"
            picture = rng.integers(0, 256, (18, 32, 3), dtype=np.uint8).repeat(20, 0).repeat(20, 1)
            for shift in range(20 * 25):
                frame = av.VideoFrame.from_ndarray(np.roll(picture, shift, axis=1), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())

        def decoded():
            frames = read_clip(path).frames
            return encoder.resize(frames, len(frames))

        cache = FrameCache(Path(folder) / "frames", 1, how_made(encoder, 60))
        for way, frames in {"decoded": decoded, "frames on disk": lambda: cache.get(path, decoded)}.items():
            encoder.patches(frames())
            cpu_s = time.process_time()
            for _ in range(rounds):
                encoder.patches(frames())
            rows.append({"clip": way, "cpu_ms": round(1000 * (time.process_time() - cpu_s) / rounds, 1)})
    return rows


def measure(way: str, path: Path) -> dict[str, float]:
    """Time and memory of one way, in this process."""
    import psutil

    import swwatch.data.dataset  # noqa: F401  the libraries are not what is measured
    import swwatch.data.packing  # noqa: F401
    import swwatch.data.records  # noqa: F401

    process, done = psutil.Process(), threading.Event()
    before, peaks = process.memory_info().rss, [0]

    def watch() -> None:
        while not done.wait(0.002):
            peaks.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    clock_s, cpu_s = time.perf_counter(), time.process_time()
    WAYS[way](path)
    clock_s, cpu_s = time.perf_counter() - clock_s, time.process_time() - cpu_s
    done.set()
    watcher.join()
    return {"clock_s": round(clock_s, 2), "cpu_s": round(cpu_s, 2), "memory_mb": round((max(peaks) - before) / 1e6)}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, nargs="+", default=[20_000, 1_000_000], help="records of the files")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(measure(args.one[0], Path(args.one[1]))))
        return 0
    rows = []
    print(f"{'records':>10}  {'file MB':>8}  {'way':<16} {'CPU s':>7} {'clock s':>8} {'memory MB':>10}")
    for count in args.lines:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "train.jsonl"
            write_records(path, count)
            for way in WAYS:
                command = [sys.executable, __file__, "--one", way, str(path)]
                row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                size = path.stat().st_size / 1e6
                print(
                    f"{count:10,}  {size:8.0f}  {way:<16} {row['cpu_s']:7.2f} {row['clock_s']:8.2f} "
                    f"{row['memory_mb']:10,}",
                    flush=True,
                )
                rows.append({"records": count, "file_mb": round(size), "way": way} | row)
    clips = clip_times()
    for row in clips:
        print(f"{'a clip':>10}  {'':8}  {row['clip']:<16} {row['cpu_ms'] / 1000:7.3f}")
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    print(
        json.dumps(
            {
                **machine,
                "load": round(os.getloadavg()[0], 1),
                "python": platform.python_version(),
                "rows": rows,
                "clips": clips,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
