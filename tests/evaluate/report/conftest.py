"""Runs made by hand: predictions, trace, scores by the house's own functions, and real small videos."""

import json

import av
import numpy as np
import pytest

from swwatch.metrics import captions
from swwatch.metrics.captions import caption_scores
from swwatch.metrics.timing import summarize

NASTY = '<script>alert("x")</script></script><img src=x onerror=alert(1)> & {{data}} $x$ `a|b`'
RIGHT_TO_LEFT = "يظهر الفيديو كرة حمراء"
CLIPS = {  # clip -> (reference, pieces of the caption, one a token)
    "plain": ("The video shows a red ball.", ["The", " video", " sh", "ows", " a", " red", " ball", "."]),
    "7": ("The video shows a cat.", [NASTY[:20], NASTY[20:], " \u202e end"]),
    "rtl": (RIGHT_TO_LEFT, ["يظهر", " الفيديو", " كرة", " حمراء"]),
    "pieces": ("The video shows a 🙂 smile 視頻.", ["", "", "🙂", " smi", "le", "", "視", "頻"]),
    "silent": ("The video shows nothing.", []),
}


def write_video(path, seconds: int) -> None:
    """A video whose every second has a grey of its own."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.height, stream.width = 48, 64
        for i in range(4 * seconds):
            pixels = np.full((48, 64, 3), 40 * (i // 4 + 1), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def trace_of(pieces: list[str], late_s: float = 0.1) -> list[dict]:
    """Two tokens a second, 10 ms apart, the first `late_s` after its frame."""
    return [
        {"step": i // 2, "token_id": i, "newest_visible_step": i // 2, "t_frame_s": i // 2 + 0.5}
        | {"t_emit_s": i // 2 + 0.5 + late_s + 0.01 * (i % 2), "text": text}
        for i, text in enumerate(pieces)
    ]


class Runs:
    """Writes runs to a folder."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "videos").mkdir()
        for key in ("plain", "rtl"):
            write_video(folder / "videos" / f"{key}.mp4", 4)
        self.data = folder / "test.jsonl"
        self.records = [
            {"video_id": int(key) if key.isdigit() else key, "human_caption": reference, "video_duration_in_s": 4.0}
            | {"video_path": f"videos/{key}.mp4", "events": [{"color": "red", "start_s": 0, "end_s": 1.5}]}
            for key, (reference, _) in CLIPS.items()
        ]
        self.data.write_text("".join(json.dumps(record) + "\n" for record in self.records))

    def lines(self, name, rows):
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(self, name="group", *, trace=True, variant="group", late_s=0.1, **metrics):
        """Write a run's files; the path of its predictions."""
        texts = {key: "".join(pieces).strip() for key, (_, pieces) in CLIPS.items()}
        tokens = {key: trace_of(pieces, late_s) for key, (_, pieces) in CLIPS.items()}
        rows = [
            {"video_id": record["video_id"], "annotation": record["human_caption"], "task": "3_5"}
            | {"result": texts[str(record["video_id"])]}
            | {"messages": [{"type": "video", "value": str(self.folder / record["video_path"])}]}
            for record in self.records
        ]
        self.lines(f"{name}_infer.json", rows)
        if trace:
            self.lines(f"{name}_trace.jsonl", [{"video_id": key, "tokens": each} for key, each in tokens.items()])
        self.lines(f"{name}_skipped.jsonl", [{"video_id": "bad", "path": "videos/bad.mp4", "reason": "<b>empty</b>"}])
        scores = caption_scores(texts, {key: reference for key, (reference, _) in CLIPS.items()})
        scores["ci95"] = {"CIDEr": [0.1, 0.2]}
        report = {
            "settings": {"variant": variant, "schedule": "wait-k:3", "data_sha256": "d"},
            "about": {"data": str(self.data), "torch": "2", "model": NASTY},
            "num_skipped": 1,
            "num_clips": len(rows),
            "num_empty": 1,
            "scores": scores,
        }
        if trace:
            report["timing"] = summarize(tokens, {str(record["video_id"]): record for record in self.records})
        (self.folder / f"{name}_metrics.json").write_text(json.dumps(report | metrics))
        return self.folder / f"{name}_infer.json"

    def judged(self, name="group"):
        """Add a judge's scores to a run."""
        judge = {"model": "a-judge", "num_judged": 5, "num_empty": 1, "num_failed": 0, "failed": [], "fluency": 3.4}
        judge |= {"ci95": [3.0, 3.8], "per_clip": {"plain": 5, "silent": 1}, "cost": None, "rubric_sha256": "r"}
        (self.folder / f"{name}_judge.json").write_text(json.dumps(judge))


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    monkeypatch.setattr(captions, "java_problem", lambda: "no `java` on the PATH")


@pytest.fixture
def runs(tmp_path, no_java):
    return Runs(tmp_path)
