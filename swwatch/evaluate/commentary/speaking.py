"""Sessions in chat turns that comment on games and events."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from swwatch.data.budget import PixelBudget
from swwatch.data.pixels import FrameEncoder
from swwatch.data.turns.transcript import text_of
from swwatch.data.video import FRAMES_PER_STEP, StepFrames, iter_steps, measure
from swwatch.engine.door import open_stream
from swwatch.engine.requests import drive
from swwatch.engine.source import Step
from swwatch.engine.turns import TurnSession
from swwatch.errors import UserError
from swwatch.evaluate.commentary.events import CommentaryEvent, ask
from swwatch.evaluate.commentary.games import Game
from swwatch.evaluate.commentary.settings import GenerateSettings
from swwatch.evaluate.commentary.tasks import Wording
from swwatch.evaluate.commentary.texts import Utterance, joined
from swwatch.model.loading import Loaded
from swwatch.narrate.words import Turn, watching
from swwatch.policies.choose import Choosing
from swwatch.rules.layout import Layout
from swwatch.rules.spans import Part, Span
from swwatch.rules.systems import System


@dataclass(frozen=True)
class Speaker:
    """A model and how its words are chosen. `system` may differ from the table's row, as benchmarks want it.

    Attributes:
        budget: of pixels; one that is shared by the frames of a clip is for events.
        policy: of rules.turn_positions; None: the system's own.
        spread: the frames of an event are evenly spread over it, as many as its grid has, instead of on the grid.
        base_model: it is asked as a base model is, see events.ask.
    """

    loaded: Loaded
    system: System
    choose: Choosing
    budget: PixelBudget
    policy: str | None = None
    spread: bool = False
    base_model: bool = False

    def open(self, *, query: str | None, previous: str) -> TurnSession:
        """A new stream; previous text is for systems that keep one."""
        options = {"question": query, "choose": self.choose, "policy": self.policy, "form": self.system}
        return open_stream(self.loaded, previous=previous if self.system.previous_text else "", **options)

    def steps_of(self, path: Path, begin_s: float, end_s: float) -> Iterator[StepFrames]:
        """The steps of an event.

        Raises:
            VideoError: the video cannot be read, or is over before the event.
        """
        how = {"max_frames": None, "span": (begin_s, end_s)}
        fps = self.loaded.settings.fps
        if not self.spread:
            return iter_steps(path, fps=fps, **how)
        count = min(measure(path, fps=fps, **how)[0], self.system.max_frames)
        steps = iter_steps(path, spread=count, **how)
        return (StepFrames.of(step.step, step.frames, step.num_frames // FRAMES_PER_STEP, fps) for step in steps)

    def speak(
        self, session: TurnSession, steps: Iterable[StepFrames], from_s: float, zero_s: float
    ) -> Iterator[Utterance]:
        """Go on with a stream: what is said about these steps, turn by turn; silence is an item, too.

        Args:
            from_s: video seconds at which the numbering of the steps begins.
            zero_s: video seconds at which the labels of turns count 0.
        """
        encoder = FrameEncoder(self.loaded.processor.video_processor, self.budget)
        num_frames, came = 0, 0.0

        def encode(step: StepFrames) -> Step:
            nonlocal num_frames, came
            num_frames, came = num_frames + len(step.frames), time.perf_counter()
            return Step(*encoder.encode(step.frames, step.num_frames), step.arrival_s)

        arriving = (replace(step, arrival_s=from_s + step.arrival_s - zero_s) for step in steps)
        for event in drive(self.loaded.model, watching(session, arriving, encode, self.loaded.tokenizer)):
            if isinstance(event, Turn):
                num_tokens = sum(map(len, session.context[:-1]))  # without what was said now
                cost = num_frames, num_tokens, time.perf_counter() - came
                yield Utterance(event.text, zero_s + event.start_s, zero_s + event.end_s, *cost)
                num_frames = 0


def comment_game(
    speaker: Speaker, game: Game, path: Path, plan: GenerateSettings, before: Iterable[dict], state_path: Path
) -> Iterator[tuple[dict, list[Utterance]]]:
    """Rows {video, chunk_start, chunk_end, items} of a game, and what was said in each: one a chunk, or one every
    `save_every` s of a stream.

    A stream that was killed goes on as if it had not been: in chunk mode at the first chunk that is not there, in
    infinite mode with its state of the last row.

    Args:
        plan: which seconds are commented on, and when the stream begins anew: every `chunk` seconds (chunk mode), or
            never (infinite mode).
        before: rows of this game that are there already.
        state_path: where the stream is kept between two rows of infinite mode.
    Raises:
        VideoError: the video cannot be read, or is over before the start.
    """
    settings = speaker.loaded.settings
    step_s, how = settings.step_s, {"max_frames": None, "fps": settings.fps}
    end_s = plan.start_s + measure(path, span=(plan.start_s, plan.end), **how)[0] // FRAMES_PER_STEP * step_s
    at = max((row["chunk_end"] for row in before), default=plan.start_s)
    session = None
    if plan.chunk is None and plan.start_s < at < end_s:
        session, at = _restored(speaker, game, plan, state_path)
    if at >= end_s:
        return
    steps, from_s = iter_steps(path, span=(at, end_s), **how), at
    while at < end_s:
        until = min(at + (plan.chunk or plan.save_every), end_s)
        if plan.chunk is not None or session is None:
            session = _begun(speaker, game, plan, at)
        zero_s = 0.0 if not speaker.system.clip_time else at if plan.chunk is not None else plan.start_s
        part = islice(steps, round((until - at) / step_s))
        items = list(speaker.speak(session, part, from_s, zero_s))
        yield {"video": game.key, "chunk_start": at, "chunk_end": until, "items": [one.row() for one in items]}, items
        at = until
        if plan.chunk is None and at < end_s:
            _save(session, at, state_path)
    state_path.unlink(missing_ok=True)


def _begun(speaker: Speaker, game: Game, plan: GenerateSettings, at: float) -> TurnSession:
    """A stream that is told all that was said in the game before, by its human commentators: with a space before it,
    as the benchmark's own runs and training have it."""
    before = text_of(game.transcript.before(at))
    return speaker.open(query=plan.query, previous=before and f" {before}")


def _save(session: TurnSession, at: float, path: Path) -> None:
    aside = path.with_suffix(".tmp")
    torch.save({"at": at, "state": session.state()}, aside)
    os.replace(aside, path)


def _restored(speaker: Speaker, game: Game, plan: GenerateSettings, path: Path) -> tuple[TurnSession | None, float]:
    """The stream that was kept and the second where it goes on; (None, start) where none was."""
    if not path.exists():
        print(f"{game.video}: its stream was not kept, so it begins anew", file=sys.stderr)
        return None, plan.start_s
    try:
        with torch.serialization.safe_globals([Span, Part, Layout]):
            snapshot = torch.load(path, map_location=speaker.loaded.model.device, weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(f"the kept stream {path} cannot be read ({error}): remove it, or give --restart") from error
    state = snapshot["state"]
    session = _begun(speaker, game, plan, plan.start_s)
    session.restore(state)
    return session, snapshot["at"]


def comment_event(
    speaker: Speaker, event: CommentaryEvent, path: Path, wording: Wording
) -> tuple[dict, list[Utterance]]:
    """The row of an event: {video, video_id, event_id, begin, end, pred}; and what was said.

    Raises:
        VideoError: the video cannot be read, or is over before the event.
    """
    session = speaker.open(**ask(event, speaker.system, wording, speaker.base_model))
    steps = speaker.steps_of(path, event.begin_s, event.end_s)
    zero_s = event.begin_s if speaker.system.clip_time else 0.0
    items = list(speaker.speak(session, steps, event.begin_s, zero_s))
    text = joined((item.response for item in items), ending="..." if speaker.system.name == "livecc" else "")
    ids = {"video": event.video, "video_id": event.video_id, "event_id": event.event_id}
    return {**ids, "begin": event.begin_s, "end": event.end_s, "pred": text}, items
