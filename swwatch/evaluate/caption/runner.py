"""The loop of an evaluation: every clip is narrated once, whatever happens on the way."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm import tqdm

from swwatch.data.prompt import question_of
from swwatch.engine.batch import Batch, Ended, OutOfMemory
from swwatch.engine.requests import Run
from swwatch.errors import UserError
from swwatch.evaluate.claims import bar_options, check_skips, claimed
from swwatch.evaluate.results import Writer
from swwatch.launch.ranks import SingleProcess
from swwatch.narrate.words import Token, Turn, caption_of


@dataclass(frozen=True)
class ClipRequest:
    """All that a narrator gets to know of a record. The reference caption and its length are not in it (P3)."""

    key: str
    video: Path
    question: str


class Unreadable(Exception):
    """The video of a clip cannot be found or decoded: the clip is skipped, counted and listed."""


@dataclass
class _Open:
    """A record being narrated."""

    record: dict
    clip: ClipRequest | None = None
    tokens: list[Token] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)  # of a chat system; "" is silence

    @property
    def caption(self) -> str:
        return " ".join(filter(None, self.turns)) if self.turns else caption_of(self.tokens)


def run(
    records: list[dict],
    results: Writer,
    *,
    locate: Callable[[str | None], Path],
    narrator: Callable[[ClipRequest], Iterable],
    question: str,
    task: str,
    max_bad_fraction: float = 0.01,
    model=None,
    clips_at_once: int = 1,
    ranks: SingleProcess | None = None,
) -> None:
    """Narrate the records that are not done yet, writing each as soon as it is finished.

    Args:
        records: annotations in the order of evaluation.
        results: where this process writes; `done` says what is done already.
        locate: a record's `video_path` -> file; raises Unreadable.
        narrator: clip -> its tokens, and requests to the model among them (see engine.requests); raises Unreadable.
        question: what is asked about records without a `question` of their own.
        task: for the results of records without a `task` of their own.
        model: what answers the requests; None where there are none.
        clips_at_once: so many clips share every forward. A finished one's place is refilled at once.
        ranks: who else works on the same records; each takes the next clip when it has room for one.
    Raises:
        UserError: more unreadable clips than allowed, or not enough memory.
    """
    ranks, batch, clips, warnings = ranks or SingleProcess(), Batch(model), {}, []
    todo = [record for record in records if str(record["video_id"]) not in results.done]
    num_before = len(results.done)
    bar = tqdm(desc="clips", unit="clip", initial=num_before, total=len(records), **bar_options(ranks))

    def narration(now: _Open) -> Run:
        video, prompt = locate(now.record.get("video_path")), question_of(now.record, question)
        now.clip = ClipRequest(str(now.record["video_id"]), video, prompt)
        yield from narrator(now.clip)

    def take(events: list) -> None:
        for key, event in events:
            if isinstance(event, Token):
                clips[key].tokens.append(event)
            elif isinstance(event, Turn) and not event.thought:
                clips[key].turns.append(event.text)
            elif isinstance(event, Ended):
                finish(clips.pop(key), event.error)
                bar.update(num_before + ranks.add("ended") - bar.n)

    def advance() -> None:
        take(batch.advance())
        if batch.at_most and not warnings:
            warnings.append(batch.at_most)
            fit = f"{batch.at_most} of {clips_at_once} clips fit into memory together"
            tqdm.write(f"{fit}: a smaller --clips-at-once is faster", file=sys.stderr)

    def finish(ended: _Open, error: Exception | None) -> None:
        record = ended.record
        if error is None:
            results.add(_prediction(ended, task), [asdict(token) for token in ended.tokens])
        elif isinstance(error, Unreadable):
            results.skip(record["video_id"], record.get("video_path"), str(error))
            listed = results.skipped if ranks.size == 1 else results.skipped.with_name("rank*_skipped.jsonl")
            check_skips(ranks.add("skipped"), len(records), max_bad_fraction, listed, error)
        else:
            raise error

    with bar:
        try:
            for record in claimed(todo, ranks):
                key = str(record["video_id"])
                clips[key] = _Open(record)
                take(batch.add(key, narration(clips[key])))
                while len(batch) >= clips_at_once:
                    advance()
            while len(batch):
                advance()
        except OutOfMemory as error:
            less = "a smaller --clips-at-once" if clips_at_once > 1 else "a smaller --max-frames or --pixel-budget"
            raise UserError(f"out of GPU memory: give {less}; finished clips are kept") from error


def _prediction(ended: _Open, task: str) -> dict:
    record, clip = ended.record, ended.clip
    return {
        "video_id": record["video_id"],
        "annotation": record["human_caption"],
        "task": record.get("task", task),
        "result": ended.caption,
        "messages": [{"type": "text", "value": clip.question}, {"type": "video", "value": str(clip.video)}],
    }
