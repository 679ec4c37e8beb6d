"""What can be set for `swwatch commentary generate` and `judge`."""

from dataclasses import dataclass
from pathlib import Path

from swwatch.config import REQUIRED, check_least, setting
from swwatch.errors import UserError
from swwatch.evaluate.commentary import tasks
from swwatch.evaluate.commentary.tasks import CommentaryTask, Wording
from swwatch.evaluate.judge.settings import JudgeSettings
from swwatch.model.flags import DeviceFlags, SessionFlags
from swwatch.rules import systems, turn_positions

TASK = f"{' or '.join(tasks.TASKS)}; or a YAML file"


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(SessionFlags, DeviceFlags):
    """Let a model comment, alone or with other processes (torchrun). Goes on where an earlier run was killed."""

    task: str = setting(REQUIRED, TASK)
    model: str = setting(REQUIRED, "checkpoint folder or hub id")
    system: str | None = setting(
        None, f"{' or '.join(systems.SYSTEMS)}, needed where the checkpoint does not name one"
    )
    data: Path = setting(REQUIRED, "the benchmark's annotation file")
    videos: Path | None = setting(None, "folder of the videos (default: as the annotations' paths say)")
    output: Path = setting(REQUIRED, "jsonl file of what is said", output="file")
    restart: bool = setting(False, "begin anew instead of going on")
    begin: float | None = setting(None, "inf-streams: first second (default: the task's, 1000)", least=0)
    end: float | None = setting(None, "inf-streams: last second (default: the video's)")
    chunk: int | None = setting(None, "inf-streams: begin anew every so many seconds, such as 100", least=1)
    query: str | None = setting(None, "inf-streams: what is asked (default: as the task says)")
    save_every: int = setting(500, "inf-streams: seconds between two rows of a stream that is not restarted", least=10)
    positions: str | None = setting(
        None, f"where tokens stand: {', '.join(turn_positions.POLICIES)} (default: the system's)"
    )
    wording: str | None = setting(None, "a form of the task's, such as lines, or a YAML file with other prompts")
    shared_pixels: bool = setting(False, "livesports-cc: the frames of an event share its pixels, as in training")
    spread_frames: bool = setting(False, "livesports-cc: an event's frames are evenly spread, not on the grid")
    base_model: bool = setting(False, "livesports-cc: a base model is asked by the title, or by what was said, alone")
    max_count: int | None = setting(None, "only the first games or events", least=1)
    sample: bool = setting(None, "draw tokens, or take the likeliest (default: as the task's own runs)")
    temperature: float | None = setting(None, "of draws")
    repetition_penalty: float | None = setting(None, "1 is off")
    max_new_tokens: int | None = setting(None, "of a turn", least=1)
    seed: int | None = setting(None, "of the draws of every stream (default: 42)")

    def __post_init__(self):
        super().__post_init__()
        check_least(self)
        self.form  # noqa: B018 - a task or a form that is none is told now
        self.check_choose("sample", "max_new_tokens", "temperature", "repetition_penalty", "seed")
        if self.system is not None:
            systems.get(self.system)
        if not self.benchmark.of_games and any(x is not None for x in (self.begin, self.end, self.chunk, self.query)):
            raise UserError(f"--begin, --end, --chunk and --query go with inf-streams: leave them out for {self.task}")
        of_events = (self.shared_pixels, self.spread_frames, self.base_model)
        if self.benchmark.of_games and any(of_events):
            raise UserError(
                "--shared-pixels, --spread-frames and --base-model go with livesports-cc: a game is no clip of known "
                "length; leave them out"
            )
        if self.positions is not None:
            turn_positions.get(self.positions)
            if self.system is not None:
                turn_positions.of(systems.get(self.system), self.positions)
        if self.end is not None and self.end <= self.start_s:
            raise UserError("--end must lie behind --begin")

    @property
    def start_s(self) -> float:
        """The first second of a game that is commented on."""
        return self.benchmark.segments["begin_s"] if self.begin is None else self.begin

    @property
    def benchmark(self) -> CommentaryTask:
        return tasks.get(self.task)

    @property
    def form(self) -> Wording:
        """How it is asked."""
        return self.benchmark.form(self.wording)


@dataclass(frozen=True, kw_only=True)
class CommentaryCompareSettings(JudgeSettings):
    """Compare a run with others: settings as for `swwatch judge`, with another rubric."""

    run: Path = setting(REQUIRED, "what A said, as `swwatch commentary generate` writes it", positional=True)
    other: list[Path] = setting(REQUIRED, "what B said, in the same form; may be repeated", repeat=True)
    task: str = setting(REQUIRED, TASK)
    data: Path = setting(REQUIRED, "the benchmark's annotation file")
    segments: Path | None = setting(None, "inf-streams: segments cut already, instead of --data's own")
    begin: float | None = setting(None, "inf-streams: first second (default: the task's, 1000)", least=0)
    least_words: int | None = setting(None, "inf-streams: of a segment that counts (default: the task's, 200)")
    criterion: str | None = setting(None, "what is compared: a criterion of the rubric (default: the task's)")

    def __post_init__(self):
        super().__post_init__()
        check_least(self)
        of_games = (self.segments, self.begin, self.least_words)
        if not self.benchmark.of_games and any(value is not None for value in of_games):
            raise UserError(
                f"--segments, --begin and --least-words go with inf-streams: leave them out for {self.task}"
            )

    @property
    def benchmark(self) -> CommentaryTask:
        return tasks.get(self.task)
