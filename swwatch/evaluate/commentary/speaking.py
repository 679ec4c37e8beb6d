"""Sessions in chat turns that comment on games and events."""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from swwatch.data.budget import BUDGETS
from swwatch.data.pixels import FrameEncoder
from swwatch.data.turns.prompt import Turns
from swwatch.data.turns.transcript import text_of
from swwatch.data.video import StepFrames, iter_steps, measure
from swwatch.engine.requests import drive
from swwatch.engine.source import Step
from swwatch.engine.turns import TurnSession
from swwatch.errors import UserError
from swwatch.evaluate.commentary.events import Event, Wording, ask
from swwatch.evaluate.commentary.games import Game
from swwatch.evaluate.commentary.texts import Item, joined
from swwatch.model.loading import Loaded
from swwatch.narrate.words import with_text
from swwatch.policies.choose import Choosing
from swwatch.rules.layout import Layout
from swwatch.rules.spans import Part, Span
from swwatch.rules.systems import System

SAVE_EVERY_S = 500  # of a stream that is not restarted: its rows and its state


@dataclass(frozen=True)
class Speaker:
    """A model and how its words are chosen. `system` may differ from the table's row, as benchmarks want it."""

    loaded: Loaded
    system: System
    choose: Choosing

    def open(self, *, query: str | None, previous: str) -> TurnSession:
        """A new stream; previous text is for systems that keep one."""
        turns = Turns(self.loaded.tokenizer, self.system)
        previous = previous if self.system.previous_text else ""
        return TurnSession(self.loaded.model, turns, query=query, previous=previous, choose=self.choose)

    def speak(self, session: TurnSession, steps: Iterable[StepFrames], from_s: float, zero_s: float) -> Iterator[Item]:
        """Go on with a stream: what is said about these steps, turn by turn; silence is an item, too.

        Args:
            from_s: video seconds at which the numbering of the steps begins.
            zero_s: video seconds at which the labels of turns count 0.
        """
        processor, budget = self.loaded.processor.video_processor, BUDGETS[self.loaded.settings.pixel_budget]
        encoder, steps = FrameEncoder(processor, budget), iter(steps)
        while frames := list(islice(steps, session.steps_due)):
            taken = [
                Step(*encoder.encode(step.frames, step.num_frames), from_s + step.arrival_s - zero_s)
                for step in frames
            ]
            *_, turn = drive(self.loaded.model, with_text(session.turn(taken), self.loaded.tokenizer))
            yield Item(turn.text, zero_s + turn.start_s, zero_s + turn.end_s)


@dataclass(frozen=True)
class Plan:
    """Which seconds of a game are commented on, and when the stream begins anew.

    Attributes:
        end_s: None for the video's end.
        chunk_s: begin anew so often (chunk mode); None for one stream to the end (infinite mode).
        save_every_s: in infinite mode, seconds between two rows.
    """

    start_s: float
    end_s: float | None = None
    chunk_s: int | None = None
    query: str | None = None
    save_every_s: int = SAVE_EVERY_S

    def __post_init__(self):
        if self.start_s < 0 or (self.end_s is not None and self.end_s <= self.start_s):
            raise UserError("--begin must not be below 0, and --end must lie behind it")
        if (self.chunk_s is not None and self.chunk_s < 1) or self.save_every_s < 10:
            raise UserError("--chunk must be at least 1, --save-every at least 10")


def comment_game(
    speaker: Speaker, game: Game, path: Path, plan: Plan, before: Iterable[dict], state_path: Path
) -> Iterator[dict]:
    """Rows {video, chunk_start, chunk_end, items} of a game, one each chunk, or each `save_every_s` of one stream.

    A stream that was killed goes on as if it had not been: in chunk mode at the first chunk that is not there, in
    infinite mode with its state of the last row.

    Args:
        before: rows of this game that are there already.
        state_path: where the stream is kept between two rows of infinite mode.
    Raises:
        VideoError: the video cannot be read, or is over before the start.
    """
    end_s = plan.start_s + measure(path, max_frames=None, span=(plan.start_s, plan.end_s))[0] // 2
    at = max((row["chunk_end"] for row in before), default=plan.start_s)
    session = None
    if plan.chunk_s is None and plan.start_s < at < end_s:
        session, at = _restored(speaker, game, plan, state_path)
    if at >= end_s:
        return
    steps, from_s = iter_steps(path, max_frames=None, span=(at, end_s)), at
    while at < end_s:
        until = min(at + (plan.chunk_s or plan.save_every_s), end_s)
        if plan.chunk_s is not None or session is None:
            session = _begun(speaker, game, plan, at)
        zero_s = 0.0 if not speaker.system.clip_time else at if plan.chunk_s is not None else plan.start_s
        items = [item.row() for item in speaker.speak(session, islice(steps, round(until - at)), from_s, zero_s)]
        yield {"video": game.video, "chunk_start": at, "chunk_end": until, "items": items}
        at = until
        if plan.chunk_s is None and at < end_s:
            _save(session, at, state_path)
    state_path.unlink(missing_ok=True)


def _begun(speaker: Speaker, game: Game, plan: Plan, at: float) -> TurnSession:
    """A stream that is told all that was said in the game before, by its human commentators."""
    return speaker.open(query=plan.query, previous=text_of(game.transcript.before(at)))


def _save(session: TurnSession, at: float, path: Path) -> None:
    aside = path.with_suffix(".tmp")
    torch.save({"at": at, "state": session.state()}, aside)
    os.replace(aside, path)


def _restored(speaker: Speaker, game: Game, plan: Plan, path: Path) -> tuple[TurnSession | None, float]:
    """The stream that was kept and the second where it goes on; (None, start) where none was."""
    if not path.exists():
        print(f"{game.video}: its stream was not kept, so it begins anew", file=sys.stderr)
        return None, plan.start_s
    try:
        with torch.serialization.safe_globals([Span, Part, Layout]):
            kept = torch.load(path, map_location=speaker.loaded.model.device, weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(f"the kept stream {path} cannot be read ({error}): remove it, or give --restart") from error
    state = kept["state"]
    session = _begun(speaker, game, plan, plan.start_s)
    session.restore(state)
    return session, kept["at"]


def comment_event(speaker: Speaker, event: Event, path: Path, wording: Wording) -> dict:
    """The row of an event: {video, video_id, event_id, begin, end, pred}.

    Raises:
        VideoError: the video cannot be read, or is over before the event.
    """
    session = speaker.open(**ask(event, speaker.system, wording))
    steps = iter_steps(path, max_frames=None, span=(event.begin_s, event.end_s))
    zero_s = event.begin_s if speaker.system.clip_time else 0.0
    said = [item.response for item in speaker.speak(session, steps, event.begin_s, zero_s)]
    text = joined(said, ending="..." if speaker.system.name == "livecc" else "")
    return {
        "video": event.video,
        "video_id": event.video_id,
        "event_id": event.event_id,
        "begin": event.begin_s,
        "end": event.end_s,
        "pred": text,
    }


def with_first_frames(system: System, first_frames: int | None) -> System:
    return system if first_frames is None else replace(system, first_frames=first_frames)
