"""What a program watches: a video file, or the clip of a training record with its question and its words."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from swwatch.config import check_least, setting
from swwatch.data.annotations import no_file, resolve_video
from swwatch.data.video import FRAMES_PER_STEP, WHOLE, Span, StepFrames, iter_steps, measure
from swwatch.errors import UserError
from swwatch.rules.schedule import FPS, seconds_of_step
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.variants import TURNS

if TYPE_CHECKING:
    from swwatch.data.turns.conversation import Commentary


@dataclass(frozen=True)
class Clip:
    """A video or a part of one.

    Attributes:
        span: seconds of the video at `path`.
        question: to be asked; None: whatever is asked by default.
        conversation: of a training record, what is said.
        fps: frames a second that are watched.
    """

    path: Path
    span: Span = WHOLE
    question: str | None = None
    conversation: "Commentary | None" = None
    fps: float = FPS

    def steps(self, max_frames: int | None = None) -> Iterator[StepFrames]:
        """Its steps. Of a training conversation an odd last frame makes one with itself, as in training."""
        return iter_steps(self.path, max_frames=max_frames, **self.how)

    def labelled(self, steps: Iterable[StepFrames], variant: str) -> Iterator[StepFrames]:
        """The same steps, numbered as the labels of a chat system count: some tell the seconds of the whole video."""
        first = self.span[0] / seconds_of_step(self.fps)
        if variant not in SYSTEMS or SYSTEMS[variant].clip_time or not first:
            return iter(steps)
        return (replace(step, step=step.step + first) for step in steps)

    @property
    def num_steps(self) -> int:
        """How many they are."""
        return measure(self.path, max_frames=None, **self.how)[0] // FRAMES_PER_STEP

    @property
    def how(self) -> dict:
        """How its frames are read."""
        return {"span": self.span, "fill_up": self.conversation is not None, "fps": self.fps}


@dataclass(frozen=True, kw_only=True)
class ClipFlags:
    """Flags that say what is watched."""

    heading: ClassVar[str] = "what is watched"

    video: Path | None = setting(None, "a video file; or see --record")
    record: Path | None = setting(
        None, "instead of it, training annotations: of one record the clip, the question and the previous words"
    )
    start: float = setting(0.0, "second of the video to begin at", least=0)
    seconds: float | None = setting(None, "how much of it to watch (default: all)", above=0)
    max_pixels: int | None = setting(
        None, "of a frame, such as 301056 for 384 tokens of two (default: as the pixel budget says)", least=784
    )
    number: int = setting(1, "which record, from 1", least=1)
    video_root: Path | None = setting(None, "folder of the videos of --record (default: as its paths say)")

    def __post_init__(self):
        if (self.video is None) == (self.record is None):
            raise UserError("give --video FILE, or --record FILE for the clip of a training record, and not both")
        check_least(self)
        if self.record is not None and (self.start or self.seconds is not None):
            raise UserError("--record says which part of its video is watched: leave --start and --seconds out")
        if self.record is not None and not self.record.is_file():
            raise no_file(self.record)

    def check_video(self) -> None:
        """To be called before a model on the hub is asked for its settings, which imports transformers.

        Raises:
            UserError: there is no such video.
        """
        if self.video is not None and not self.video.is_file():
            raise UserError(f"cannot use the video {self.video}: there is no such file")

    def clip(self, variant: str | None, fps: float = FPS) -> Clip:
        """What is watched.

        Args:
            variant: of the model: chat systems are trained on conversations, others on captions.
            fps: frames a second that it watches.
        Raises:
            UserError: there is no such record, it is no commentary, or its video is not there.
        """
        if self.record is None:
            end_s = None if self.seconds is None else self.start + self.seconds
            return Clip(self.video, (self.start, end_s), fps=fps)
        from swwatch.data.records import Records
        from swwatch.data.seek_jsonl import Conversations
        from swwatch.data.turns import conversation

        records = Conversations([self.record]) if variant in TURNS else Records(self.record)
        if self.number > len(records):
            raise UserError(f"{self.record} has {len(records)} records, and no --number {self.number}")
        record = records[self.number - 1]
        path = resolve_video(record.get("video_path"), self.record, self.video_root)
        if variant not in TURNS:
            return Clip(path, question=record.get("question"), fps=fps)
        dialogue = conversation.read(record)
        if not isinstance(dialogue, conversation.Commentary):
            raise UserError(f"{self.record}, record {self.number}: it is ordinary chat, no commentary to a stream")
        return Clip(path, conversation.span_of(record), dialogue.query, dialogue, fps)
