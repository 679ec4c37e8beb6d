"""Frames in, text out, turn by turn: of a file, or pushed as they come."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from tokenizers.decoders import DecodeStream

from swwatch.data.budget import BUDGETS
from swwatch.data.live.frames import LiveFrames
from swwatch.data.pixels import FrameEncoder
from swwatch.data.turns.prompt import Turns
from swwatch.data.video import StepFrames
from swwatch.engine.requests import Run, drive
from swwatch.engine.source import FileSource, Step
from swwatch.engine.trace import SimulatedClock, Spoken
from swwatch.engine.turns import Said, TurnSession
from swwatch.errors import UserError
from swwatch.model.loading import Loaded
from swwatch.narrate.words import Token
from swwatch.rules.systems import get
from swwatch.rules.variants import TURNS


@dataclass(frozen=True)
class Turn:
    """What was said about some seconds; "" is silence."""

    start_s: float
    end_s: float
    text: str


def open_turns(loaded: Loaded, **options) -> TurnSession:
    """A session of the checkpoint's own system; options as for TurnSession.

    Raises:
        UserError: the checkpoint is none that streams in turns.
    """
    name = loaded.settings.variant
    if name not in TURNS:
        raise UserError(f"the variant {name!r} does not stream in turns: load with one of {', '.join(TURNS)}")
    return TurnSession(loaded.model, Turns(loaded.tokenizer, get(name)), **options)


def turn_narration(loaded: Loaded, steps: Iterable[StepFrames], *, clock=None, **options) -> Run:
    """Narrate the steps of a video as a coroutine that leaves the model to its driver.

    Args:
        steps: two frames each, in order.
        clock: as for narrate.narration.
        options: of TurnSession.
    Yields:
        Requests, every Token as soon as it is spoken, and a Turn at the end of each.
    """
    clock = clock or SimulatedClock()
    encode = _encoder(loaded)
    session = open_turns(loaded, clock=clock, **options)
    yield from with_words(session.run(FileSource(steps, encode, clock)), loaded.tokenizer)


def with_words(run: Run, tokenizer) -> Run:
    """The same run with a Token for every Spoken and a Turn for every Said; all else passes through."""
    words, answer = DecodeStream(skip_special_tokens=True), None
    while True:
        try:
            event = run.send(answer)
        except StopIteration:
            return
        if isinstance(event, Spoken):
            event = Token(**vars(event), text=words.step(tokenizer.backend_tokenizer, event.token_id) or "")
        elif isinstance(event, Said):
            text = tokenizer.decode(event.words, skip_special_tokens=True).strip()
            words = DecodeStream(skip_special_tokens=True)  # a character left open does not reach into the next turn
            event = Turn(event.start_s, event.end_s, text)
        answer = yield event


class TurnStream:
    """One live stream, pushed frame by frame and driven turn by turn by its caller.

    Not for several threads at once; several streams on one model do not disturb each other.
    """

    def __init__(self, loaded: Loaded, **options):
        """Args: options as for TurnSession."""
        self.loaded, self.session = loaded, open_turns(loaded, **options)
        self.frames = LiveFrames()
        self._encode = _encoder(loaded)
        self._steps: list[Step] = []
        self._over = False

    def push(self, timestamp_s: float, frame: np.ndarray) -> None:
        """A frame (H, W, 3) uint8, RGB, at any rate; seconds of its own stream."""
        self._steps += map(self._encode, self.frames.push(timestamp_s, frame))

    def end(self) -> None:
        """No more frames: what is left makes the last turns."""
        self._steps += map(self._encode, self.frames.flush())
        self._over = True

    def ask(self, question: str) -> None:
        """A question for the next turn."""
        self.session.query = question

    def step(self) -> Turn | None:
        """The next turn, if enough has arrived for one. Takes as long as its words do."""
        count = self.session.num_ready(self._steps, self._over)
        if not count:
            return None
        taken, self._steps = self._steps[:count], self._steps[count:]
        return self._last(self.session.turn(taken))

    def answer(self, question: str, max_new_tokens: int = 512) -> str:
        """What the model says to a question about all that it has in view; nothing is looked at again."""
        return self._last(self.session.answer(question, max_new_tokens)).text

    def state(self) -> dict:
        """All that the stream's words depend on, between two turns; frames that wait for their turn are not in it."""
        return self.session.state()

    def restore(self, state: dict) -> None:
        """Go on from a `state`."""
        self.session.restore(state)

    def _last(self, run: Run) -> Turn:
        *_, turn = drive(self.loaded.model, with_words(run, self.loaded.tokenizer))
        return turn


def live_cc(
    loaded: Loaded, steps: Iterable[StepFrames], stream: TurnStream | None = None, **options
) -> Iterator[tuple[tuple[float, float], str, TurnStream]]:
    """LiveCC's loop: yields ((start, stop), text, stream) for every turn of a video.

    Args:
        stream: one that has watched before and goes on; its `answer` is LiveCC's `video_qa`, its `ask` a new query.
    """
    stream = stream or TurnStream(loaded, **options)
    for step in steps:
        stream._steps.append(stream._encode(step))
        stream._over = step.last
        while (turn := stream.step()) is not None:
            yield (turn.start_s, turn.end_s), turn.text, stream


def _encoder(loaded: Loaded):
    encoder = FrameEncoder(loaded.processor.video_processor, BUDGETS[loaded.settings.pixel_budget])

    def encode(step: StepFrames) -> Step:
        return Step(*encoder.encode(step.frames, step.num_frames), step.arrival_s, step.last)

    return encode
