"""What can be set for a quiz."""

from dataclasses import dataclass, replace
from pathlib import Path

from swwatch.config import REQUIRED, check_least, setting
from swwatch.data.budget import PixelBudget
from swwatch.errors import UserError
from swwatch.evaluate.quiz import tasks
from swwatch.evaluate.quiz.items import Item
from swwatch.evaluate.quiz.tasks import Form, Task
from swwatch.evaluate.run_files import in_folder
from swwatch.model.flags import DeviceFlags, SessionFlags
from swwatch.paths import ROOT
from swwatch.policies import keep
from swwatch.policies.speak import FORMS, parse_schedule
from swwatch.rules import turn_positions as positions
from swwatch.rules import variants

# LiveCC's evaluation: 24k merged tokens for the pixels of a clip
BUDGET = PixelBudget("quiz", min_pixels=78_400, total_pixels=19_267_584)


@dataclass(frozen=True, kw_only=True)
class QuizSettings(SessionFlags, DeviceFlags):
    """Which questions, about what, and how they are shown."""

    task: str = setting(REQUIRED, f"{', '.join(tasks.TASKS)}; or a YAML file", positional=True)
    data: Path | None = setting(None, "its annotation file; for mvbench the folder of its json files, or a tsv")
    videos: Path | None = setting(None, "folder of its videos (default: that of --data)")
    subtitles: Path | None = setting(None, "videomme, longvideobench: folder of the subtitles (default: without)")
    model: str | None = setting(None, "checkpoint folder or hub id")
    variant: str | None = setting(None, "if the checkpoint names none (default: origin, one causal stream)")
    streaming: bool = setting(False, "watch turn by turn and ask on the state")
    positions: str | None = setting(
        None, f"{', '.join(positions.POLICIES)}: flat_1d for LiveCC's released weights (default: mrope_full)"
    )
    schedule: str | None = setting(None, f"of --unasked: {FORMS} (default: the checkpoint's own)", also="speak")
    choose: str | None = setting(None, "", hidden=True)  # nothing is said: logits are compared
    eviction: str | None = setting(None, f"{', '.join(keep.EVICTIONS)}: of --streaming (default: the system's own)")
    max_frames: int | None = setting(None, "of a clip (default: the benchmark's)", least=2)
    nframes: int | None = setting(
        None, "so many frames of a clip, evenly spread, at no fixed rate, such as 64 for MVBench", least=2
    )
    min_pixels: int = setting(BUDGET.min_pixels, "of a frame", least=1)
    total_pixels: int = setting(BUDGET.total_pixels, "of a clip, a patch counted once")
    wording: str | None = setting(None, "a form of the task's, such as official, or a YAML file with other prompts")
    unasked: bool = setting(False, "of moments: the model speaks by itself, nothing asks it")
    every: float = setting(1.0, "of moments: seconds from one question to the next", above=0)
    own_history: bool = setting(False, "of dialogues: with the replies given before, not with the true answers")
    only: str | None = setting(None, "groups of questions that are asked, with commas between")
    context: float | None = setting(None, "seconds before a question that are shown (default: all)", above=0)
    max_count: int | None = setting(None, "ask the first so many questions", least=1)
    max_bad_fraction: float = setting(0.01, "stop at more skipped ones", least=0, most=1)
    output_dir: Path = setting(ROOT / "output" / "quiz", "of the results", output="folder")
    output_file: str | None = setting(
        None, "predictions (default: TASK.jsonl, TASK_streaming.jsonl, ...)", output="name"
    )
    restart: bool = setting(False, "delete earlier results of the same name first")
    report: bool = setting(False, "count the answers that are there; no model")
    beside: list[Path] = setting(None, "with --report: other answers to the same task, for one table", repeat=True)

    def __post_init__(self):
        super().__post_init__()
        check_least(self)
        self.form  # noqa: B018 - a task or a form that is none is told now
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
            if getattr(self, name) and not self.streaming and not (name == "keep" and self.unasked):
                raise UserError(f"--{name} goes with --streaming: a single clip is never forgotten")
        if self.think and not (self.streaming or self.unasked):
            raise UserError("--think goes with --streaming or --unasked: about a single clip nothing is thought")
        if self.eviction and self.keep:
            raise UserError(f"--keep {self.keep} and --eviction both say what stays: give one of them")
        self._check_moments()
        if self.beside and not self.report:
            raise UserError("--beside goes with --report: it counts answers that are there")
        if self.min_pixels > self.total_pixels:
            raise UserError("--min-pixels must not be above --total-pixels")

    def _check_moments(self) -> None:
        flags = {"--unasked": self.unasked, "--every": self.every != type(self).every, "--schedule": self.schedule}
        if not self.benchmark.moment:
            for name in (name for name, given in flags.items() if given):
                raise UserError(f"{self.benchmark.name} asks nothing about when: leave {name} out")
        if self.own_history and self.benchmark.averages:
            raise UserError(f"{self.benchmark.name} has no dialogues: leave --own-history out")
        if self.schedule is not None:
            parse_schedule(self.schedule)
            if not self.unasked:
                raise UserError("--schedule goes with --unasked: a model that is asked says nothing by itself")
        if self.unasked and (self.streaming or flags["--every"] or self.max_frames or self.nframes):
            raise UserError("--unasked: leave --streaming, --every, --max-frames and --nframes out")

    def _check_nframes(self) -> None:
        for name, value in {"--fps": self.fps, "--max-frames": self.max_frames, "--streaming": self.streaming}.items():
            if value:
                raise UserError(f"--nframes takes so many frames at no fixed rate: leave {name} out")

    @property
    def benchmark(self) -> Task:
        return tasks.get(self.task)

    @property
    def form(self) -> Form:
        """How it is asked."""
        return self.benchmark.form(self.wording)

    def questions(self) -> list[Item]:
        """Those that are asked, in the order of the file, each with what is shown.

        Raises:
            UserError: see Task.items; or --context of questions about whole videos.
        """
        only = [name.strip() for name in self.only.split(",")] if self.only else []
        items = self.benchmark.items(self.data, self.form, self.subtitles, only)[: self.max_count]
        if self.benchmark.moment:
            timed = [replace(item, moment=replace(item.moment, every_s=self.every)) for item in items]
            if self.context is None:
                return timed
            starts = [max(item.start_s, item.moment.asked_s - self.context) for item in timed]
            return [replace(item, start_s=start_s) for item, start_s in zip(timed, starts, strict=True)]
        if items[0].rounds:
            items = [replace(item, own_history=self.own_history) for item in items]
        if self.context is None:
            return items
        if items[0].rounds:
            raise UserError(f"--context: the questions of {self.benchmark.name} are many: leave it out")
        if whole := [item.key for item in items if item.end_s is None]:
            raise UserError(f"--context: the question {whole[0]} is about the whole video: leave it out")
        return [replace(item, start_s=max(item.start_s, item.end_s - self.context)) for item in items]

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
        how += "_unasked" * self.unasked + "_own_history" * self.own_history
        how += f"_{self.form.name}" * (self.wording is not None) + f"_{self.context or 0:g}s" * bool(self.context)
        return in_folder(self.output_dir, self.output_file or f"{self.benchmark.name}{how}.jsonl")
