"""Small real clips with an annotation file, for the tests of training data and training."""

import json
from pathlib import Path

import av
import numpy as np

from swwatch.data.annotations import read_jsonl
from swwatch.data.budget import BUDGETS
from swwatch.data.dataset import ClipDataset
from swwatch.data.pixels import FrameEncoder
from swwatch.policies.speak import WaitK

WORDS = "a red circle moving left, a blue square moving right, a green triangle moving up".split()


def write_video(path: Path, seconds: int, seed: int, fps: int = 4, size: tuple[int, int] = (56, 56)) -> None:
    """An mp4 of coloured noise blocks; `size` is (height, width)."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for _ in range(seconds * fps):
            blocks = rng.integers(0, 256, (size[0] // 14, size[1] // 14, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(blocks.repeat(14, 0).repeat(14, 1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def clip_dataset(loaded, data: Path, variant: str, schedule=None, **options) -> ClipDataset:
    """The training samples of an annotation file, for a loaded tiny model."""
    return ClipDataset(
        read_jsonl(data),
        data,
        tokenizer=loaded.tokenizer,
        markup=loaded.markup,
        encoder=FrameEncoder(loaded.processor.video_processor, BUDGETS["declared"]),
        variant=variant,
        schedule=schedule or WaitK(3),
        merge=2,
        t_per_step=2,
        **options,
    )


CAPTIONS = [{"at_s": 1.2, "text": "a red circle"}, {"at_s": 3.5, "text": "a blue square moves"}]


def make_timed_clips(folder: Path, count: int) -> Path:
    """The same with none, one or two captions that have times, in turn."""
    data = make_clips(folder, count)
    records = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps(record | {"captions": CAPTIONS[: i % 3]}) + "\n" for i, record in enumerate(records)]
    data.write_text("".join(lines), encoding="utf-8")
    return data


def make_clips(folder: Path, count: int, bad: tuple[int, ...] = ()) -> Path:
    """`count` clips of 2 to 4 s and their jsonl; those in `bad` are empty files. Returns the jsonl."""
    records = []
    for i in range(count):
        seconds = 2 + i % 3
        path = folder / "videos" / f"{i}.mp4"
        if i in bad:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        else:
            write_video(path, seconds, seed=i)
        caption = "The video shows " + " ".join(WORDS[j % len(WORDS)] for j in range(i, i + 4 * seconds)) + "."
        record = {"video_id": i, "human_caption": caption, "video_duration_in_s": float(seconds)}
        records.append(record | {"video_path": f"videos/{i}.mp4"})
    data = folder / "train.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return data
