"""Small conversations over real clips, and data sets of them."""

import json
from pathlib import Path

from swwatch.data.annotations import seeks_file
from swwatch.data.budget import BUDGETS
from swwatch.data.pixels import FrameEncoder
from swwatch.data.seek_jsonl import Conversations
from swwatch.data.turns.dataset import TurnDataset
from swwatch.data.turns.samples import SampleFormat
from swwatch.rules import turn_positions as positions
from swwatch.rules.families import t_step
from swwatch.rules.systems import SYSTEMS

SAID = "a red circle moving left and now a blue square moving right past it".split()


def commentary(video: str, start: float, end: float, words: list, *, query: str = "", asked=(), **context) -> list:
    """A conversation whose words are rows of [start, end, word]."""
    user = [
        {"type": "video", "video": video, "video_start": start, "video_end": end},
        {"type": "text", "text": query, **context},
    ]
    stream = {"type": "text_stream", "text_stream": words} | ({"qa_stream": list(asked)} if asked else {})
    return [{"role": "user", "content": user}, {"role": "assistant", "content": [stream]}]


def chat(video: str, question: str, answer: str, kind: str = "video") -> list:
    user = [{"type": kind, kind: video}, {"type": "text", "text": question}]
    return [{"role": "user", "content": user}, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]


def talk(start: float, end: float, per_second: float = 2.0) -> list:
    """Rows of words from one time to another, evenly."""
    count = round((end - start) * per_second)
    return [[start + i / per_second, start + (i + 0.8) / per_second, SAID[i % len(SAID)]] for i in range(count)]


def write(path: Path, conversations: list, seeks: bool = True) -> Path:
    lines = [json.dumps(made).encode() + b"\n" for made in conversations]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(lines))
    if seeks:
        seeks_file(path).write_text(json.dumps([sum(map(len, lines[:i])) for i in range(len(lines))]))
    return path


def dataset(loaded, *paths: Path, policy: str = "mrope_full", form: dict | None = None, **options) -> TurnDataset:
    turns = loaded.turns(SYSTEMS[loaded.settings.variant])
    return TurnDataset(
        Conversations(paths),
        form=SampleFormat(turns, **form or {}),
        policy=positions.get(policy),
        encoder=FrameEncoder(loaded.processor.video_processor, BUDGETS["declared"]),
        merge=2,
        t_step=t_step(loaded.model.config),
        **options,
    )
