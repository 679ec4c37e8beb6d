"""What can be set for a quiz."""

from dataclasses import dataclass
from pathlib import Path

from swwatch.config import REQUIRED, check_least, setting
from swwatch.data.budget import PixelBudget
from swwatch.errors import UserError
from swwatch.evaluate.quiz import tasks
from swwatch.evaluate.quiz.tasks import Task
from swwatch.evaluate.run_files import in_folder
from swwatch.model.flags import DeviceFlags, SessionFlags
from swwatch.paths import CONFIGS, ROOT
from swwatch.policies import keep
from swwatch.rules import turn_positions as positions
from swwatch.rules import variants

# LiveCC's evaluation: 24k merged tokens for the pixels of a clip
BUDGET = PixelBudget("quiz", min_pixels=78_400, total_pixels=19_267_584)


@dataclass(frozen=True, kw_only=True)
class QuizSettings(SessionFlags, DeviceFlags):
    """Which questions, about what, and how they are shown."""

    task: str = setting(REQUIRED, f"the benchmark: {', '.join(tasks.TASKS)}", positional=True)
    data: Path | None = setting(None, "its annotation file; for mvbench the folder of its json files, or a tsv")
    videos: Path | None = setting(None, "folder of its videos (default: that of --data)")
    subtitles: Path | None = setting(None, "videomme, longvideobench: folder of the subtitles (default: without)")
    model: str | None = setting(None, "checkpoint folder or hub id")
    variant: str | None = setting(None, "if the checkpoint names none (default: origin, one causal stream)")
    streaming: bool = setting(False, "watch turn by turn and ask on the state")
    positions: str | None = setting(
        None, f"{', '.join(positions.POLICIES)}: flat_1d for LiveCC's released weights (default: mrope_full)"
    )
    choose: str | None = setting(None, "", hidden=True)  # nothing is said: logits are compared
    eviction: str | None = setting(None, f"{', '.join(keep.EVICTIONS)}: of --streaming (default: the system's own)")
    max_frames: int | None = setting(None, "of a clip (default: the benchmark's)", least=2)
    nframes: int | None = setting(
        None, "so many frames of a clip, evenly spread, at no fixed rate, such as 64 for MVBench", least=2
    )
    min_pixels: int = setting(BUDGET.min_pixels, "of a frame", least=1)
    total_pixels: int = setting(BUDGET.total_pixels, "of a clip, a patch counted once")
    wording: Path = setting(CONFIGS / "quiz.yaml", "of the questions")
    max_count: int | None = setting(None, "ask the first so many questions", least=1)
    max_bad_fraction: float = setting(0.01, "stop at more skipped ones", least=0, most=1)
    output_dir: Path = setting(ROOT / "output" / "quiz", "of the results")
    output_file: str | None = setting(None, "predictions (default: TASK.jsonl, TASK_streaming.jsonl, ...)")
    restart: bool = setting(False, "delete earlier results of the same name first")
    report: bool = setting(False, "count the answers that are there; no model")

    def __post_init__(self):
        super().__post_init__()
        check_least(self)
        tasks.get(self.task)
        if self.variant is not None:
            variants.get(self.variant)
        if self.positions is not None:
            positions.get(self.positions)
        keep.check_eviction(self.eviction)
        missing = [f"--{name}" for name in ("data", "model") if not self.report and getattr(self, name) is None]
        if missing:
            raise UserError(f"{' and '.join(missing)} must be given, unless --report counts answers that are there")
        if self.streaming and self.max_frames is not None:
            raise UserError("--streaming leaves no frame out: leave --max-frames out")
        if self.nframes is not None:
            self._check_nframes()
        for name in ("eviction", "keep"):
            if getattr(self, name) and not self.streaming:
                raise UserError(f"--{name} goes with --streaming: a single clip is never forgotten")
        if self.eviction and self.keep:
            raise UserError(f"--keep {self.keep} and --eviction both say what stays: give one of them")
        if self.min_pixels > self.total_pixels:
            raise UserError("--min-pixels must not be above --total-pixels")

    def _check_nframes(self) -> None:
        for name, value in {"--fps": self.fps, "--max-frames": self.max_frames, "--streaming": self.streaming}.items():
            if value:
                raise UserError(f"--nframes takes so many frames at no fixed rate: leave {name} out")

    @property
    def benchmark(self) -> Task:
        return tasks.get(self.task)

    @property
    def budget(self) -> PixelBudget:
        return PixelBudget("quiz", min_pixels=self.min_pixels, total_pixels=self.total_pixels)

    @property
    def videos_dir(self) -> Path:
        """Raises: UserError: there is no such folder."""
        folder = self.videos or (self.data if self.data.is_dir() else self.data.parent)
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}: --videos wants that of the videos")
        return folder

    @property
    def predictions(self) -> Path:
        how = "_subtitles" * bool(self.subtitles) + "_streaming" * self.streaming
        return in_folder(self.output_dir, self.output_file or f"{self.task}{how}.jsonl")
