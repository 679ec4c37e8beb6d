"""From a video to words in one call: the functions of `import swwatch`."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from swwatch.data.live.frames import LiveFrames
from swwatch.data.prompt import ask_ids
from swwatch.data.video import StepFrames, iter_steps
from swwatch.engine.door import open_stream
from swwatch.engine.requests import drive
from swwatch.engine.source import Ask, FileSource, StepEncoder
from swwatch.engine.trace import Asked, SimulatedClock
from swwatch.model.loading import Loaded
from swwatch.narrate import words
from swwatch.narrate.words import Token, Turn

Video = str | Path | Iterable[tuple[float, np.ndarray]]


def narrate(loaded: Loaded, video: Video, **options) -> Iterator[Token]:
    """The words about a video, token by token, each with the second that it is about and when it was said.

    Args:
        loaded: what `load` gives.
        video: a file; or frames at any rate, as (seconds, (H, W, 3) uint8 RGB).
        options: of narrate.words.narration, such as question, schedule, engine, max_new_tokens.
    Raises:
        UserError: the video cannot be read, or an option does not fit the variant.
    """
    return words.narrate(loaded, steps_of(video), **options)


def converse(
    loaded: Loaded, video: Video, questions: Mapping[float, str], **options
) -> Iterator[Token | Turn | Asked]:
    """The same with questions while the video goes on.

    Args:
        questions: seconds of the video -> what is asked then, in effect from the next second on. One at 0 or before
            opens the stream.
        options: of engine.door.open_stream.
    Yields:
        Token; Asked where a question takes effect; Turn at the end of each turn of a chat system.
    """
    later = sorted((at_s, text) for at_s, text in questions.items() if at_s > 0)
    first = [text for at_s, text in questions.items() if at_s <= 0]
    clock = SimulatedClock()
    session = open_stream(loaded, question=first[-1] if first else None, clock=clock, **options)
    asks = [(at_s, Ask(tuple(ask_ids(loaded.tokenizer, text, loaded.markup)), text)) for at_s, text in later]
    run = words.with_text(session.run(_Asking(steps_of(video), StepEncoder(loaded), clock, asks)), loaded.tokenizer)
    return (event for event in drive(loaded.model, run) if isinstance(event, Token | Turn | Asked))


class _Asking(FileSource):
    """A file of which something is asked between two steps."""

    def __init__(self, steps: Iterable[StepFrames], encode, clock, asks: list[tuple[float, Ask]]):
        """Args: asks: (seconds, question), by time."""
        super().__init__(steps, encode, clock)
        self._asks = asks

    def orders(self) -> list[Ask]:
        step = self._peek()
        reached = [ask for at_s, ask in self._asks if step is not None and at_s <= step.arrival_s]
        self._asks = self._asks[len(reached) :]
        return reached


def steps_of(video: Video) -> Iterator[StepFrames]:
    """The seconds of a video, two frames each."""
    if isinstance(video, str | Path):
        return iter_steps(video, max_frames=None)
    return _steps_of_frames(video)


def _steps_of_frames(frames: Iterable[tuple[float, np.ndarray]]) -> Iterator[StepFrames]:
    grid = LiveFrames()
    for seconds, frame in frames:
        yield from grid.push(seconds, frame)
    yield from grid.flush()
