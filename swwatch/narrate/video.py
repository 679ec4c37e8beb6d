"""From a video to words in one call: the functions of `import swwatch`."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from swwatch.data.live.frames import LiveFrames
from swwatch.data.video import StepFrames, iter_steps
from swwatch.engine.requests import drive
from swwatch.engine.trace import Asked
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
    return words.narrate(loaded, steps_of(video, loaded.settings.fps), **options)


def converse(
    loaded: Loaded, video: Video, questions: Mapping[float, str], **options
) -> Iterator[Token | Turn | Asked]:
    """The same with questions while the video goes on.

    Args:
        questions: seconds of the video -> what is asked then, in effect from the next second on. One at 0 or before
            opens the stream.
        options: of narrate.words.narration.
    Yields:
        Token; Asked where a question takes effect; Turn at the end of each turn of a chat system.
    """
    first = [text for at_s, text in questions.items() if at_s <= 0]
    later = [(at_s, text) for at_s, text in questions.items() if at_s > 0]
    steps = steps_of(video, loaded.settings.fps)
    run = words.narration(loaded, steps, question=first[-1] if first else None, questions=later, **options)
    return (event for event in drive(loaded.model, run) if isinstance(event, Token | Turn | Asked))


def steps_of(video: Video, fps: float) -> Iterator[StepFrames]:
    """The steps of a video, two frames each of `fps` a second."""
    if isinstance(video, str | Path):
        return iter_steps(video, max_frames=None, fps=fps)
    return _steps_of_frames(video, fps)


def _steps_of_frames(frames: Iterable[tuple[float, np.ndarray]], fps: float) -> Iterator[StepFrames]:
    grid = LiveFrames(fps=fps)
    for seconds, frame in frames:
        yield from grid.push(seconds, frame)
    yield from grid.flush()
