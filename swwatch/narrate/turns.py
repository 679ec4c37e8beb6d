"""Chat turns of a stream that is pushed frame by frame."""

from collections.abc import Iterable, Iterator

import numpy as np

from swwatch.data.live.frames import LiveFrames
from swwatch.data.video import StepFrames
from swwatch.engine.door import open_stream
from swwatch.engine.requests import Run, drive
from swwatch.engine.source import Ask, Step, StepEncoder
from swwatch.errors import UserError
from swwatch.model.loading import Loaded
from swwatch.narrate.words import Turn, with_text
from swwatch.rules.variants import TURNS


class TurnStream:
    """One live stream, pushed frame by frame and driven turn by turn by its caller.

    Not for several threads at once; several streams on one model do not disturb each other.

    Attributes:
        replies: to questions, of the newest `step`, in systems that think: there its turn is a thought.
    """

    def __init__(self, loaded: Loaded, **options):
        """Args: options as for engine.door.open_stream.

        Raises:
            UserError: the checkpoint is none that streams in turns.
        """
        name = loaded.settings.variant
        if name not in TURNS:
            raise UserError(f"the variant {name!r} does not stream in turns: load with one of {', '.join(TURNS)}")
        self.loaded, self.session = loaded, open_stream(loaded, **options)
        self.frames = LiveFrames(fps=loaded.settings.fps)
        self._encode = StepEncoder(loaded)
        self._steps: list[Step] = []
        self._over = False
        self.replies: list[Turn] = []

    def push(self, timestamp_s: float, frame: np.ndarray) -> None:
        """A frame (H, W, 3) uint8, RGB, at any rate; seconds of its own stream."""
        self._steps += map(self._encode, self.frames.push(timestamp_s, frame))

    def end(self) -> None:
        """No more frames: what is left makes the last turns."""
        self._steps += map(self._encode, self.frames.flush())
        self._over = True

    def ask(self, question: str) -> None:
        """A question for the next turn."""
        if self.session.system.thinks:
            self.session.asks.append(Ask((), question))
        else:
            self.session.query = question

    def step(self) -> Turn | None:
        """The next turn, if enough has arrived for one. Takes as long as its words do."""
        count = self.session.num_ready(self._steps, self._over)
        if not count:
            return None
        taken, self._steps = self._steps[:count], self._steps[count:]
        self.session.ending = self._over and not self._steps
        turns = self._turns(self.session.turn(taken))
        thinks = self.session.system.thinks
        self.replies = [turn for turn in turns if thinks and not turn.thought]
        return next(turn for turn in turns if turn.thought == thinks)

    def answer(self, question: str, max_new_tokens: int = 512) -> str:
        """What the model says to a question about all that it has in view; nothing is looked at again."""
        return self._turns(self.session.answer(question, max_new_tokens))[-1].text

    def state(self) -> dict:
        """All that the stream's words depend on, between two turns; frames that wait for their turn are not in it."""
        return self.session.state()

    def restore(self, state: dict) -> None:
        """Go on from a `state`."""
        self.session.restore(state)

    def _turns(self, run: Run) -> list[Turn]:
        events = drive(self.loaded.model, with_text(run, self.loaded.tokenizer))
        return [event for event in events if isinstance(event, Turn)]


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
