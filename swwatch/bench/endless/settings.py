"""Every setting of `swwatch bench endless`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from swwatch.bench.endless.modes import MODES, PARALLEL, check_endless, mode_of
from swwatch.bench.settings import BenchSettings, check_model
from swwatch.bench.shapes import SHAPES
from swwatch.config import setting
from swwatch.errors import UserError
from swwatch.model.checks import saved_settings
from swwatch.model.flags import SessionFlags

DEFAULTS = {
    "cpu": {"shape": "toy", "seconds": 240, "video_tokens": 16, "restart_s": 60.0, "flush_s": 60.0}
    | {"text_sink": 64, "text_window": 64, "mode_s": 60.0},
    "cuda": {"shape": "7b", "seconds": 1000, "video_tokens": 256, "restart_s": 100.0, "flush_s": 240.0}
    | {"text_sink": 512, "text_window": 512, "mode_s": 240.0},
}


@dataclass(frozen=True)
class EndlessBenchSettings(SessionFlags, BenchSettings):
    """Measure streams without end: what a second of one costs, and takes in memory, the longer it lasts.

    All modes watch the same random pixels with the same random weights and say as many tokens a second: full
    attention, a window without overlap, a window read anew, sinks and windows (StreamingVLM), a flush of all video
    (LiveCC), and a parallel variant of this project with a window, watching before it speaks (serial) or meanwhile
    (fused), or with what --keep says instead. Nothing is downloaded. Every mode has a time limit and says so where it
    is met; the file is written anew after each. With --model and --video it is a checkpoint that watches a real video
    and says its own words: chat systems as many as they choose, and draw them as they do; reading the file is not
    counted.
    """

    # what
    modes: tuple[str, ...] | None = setting(
        None, f"which (default: all by name): {', '.join(MODES)}, or a variant and what it keeps, as group:rekv:8"
    )
    shape: str | None = setting(None, f"random model of: {', '.join(SHAPES)} (default: toy, on cuda 7b)")
    model: str | None = setting(None, "checkpoint folder or hub id, instead of a shape; runs the modes of its variant")
    video: Path | None = setting(None, "a real one for it, instead of random pixels")
    variant: str | None = setting(
        None, f"of the modes serial and fused: {', '.join(PARALLEL)} (default: the checkpoint's, else group)"
    )
    seconds: int | None = setting(None, "of the stream, a step each (default: 240, on cuda 1000)", least=5)
    video_tokens: int | None = setting(None, "a second (default: 16, on cuda 256)", above=0)
    tokens: int = setting(
        10, 'said a second; in chat turns the last two are " ..." and <|im_end|>, and not with --model', least=3
    )
    # windows
    vision_s: int = setting(16, "seconds of video that windows keep", above=0)
    restart_s: float | None = setting(None, "the window without overlap (default: 60, on cuda 100)", above=0)
    flush_s: float | None = setting(
        None, "all video goes at so many seconds of it (default: 60, on cuda 240)", above=0
    )
    text_sink: int | None = setting(None, "first tokens of what was said that stay (default: 64, cuda 512)", least=0)
    text_window: int | None = setting(None, "last tokens of it that stay (default: 64, on cuda 512)", above=0)
    # how
    mode_s: float | None = setting(None, "a mode is stopped after so many seconds (default: 60, on cuda 240)", above=0)
    max_spread: float = setting(0.15, "too busy: step times of a mode of constant cost spread by more than this")

    def __post_init__(self):
        super().__post_init__()
        modes = {name: mode_of(name) for name in self.modes or ()}
        fixed = [name for name, mode in modes.items() if self.keep and (mode.keep or not mode.engine)]
        if fixed:
            raise UserError(
                f"--keep {self.keep} is for the modes serial and fused: {fixed[0]} keeps what it is named for"
            )
        check_model(self.model, self.shape)
        if self.video is not None and self.model is None:
            raise UserError("--video is watched by a checkpoint: give --model, too")
        if self.video is not None and self.video_tokens is not None:
            raise UserError("--video has tokens of its own: leave --video-tokens out")
        if self.video is not None and not self.video.is_file():
            raise UserError(f"cannot use the video {self.video}: there is no such file")
        if self.variant is not None:
            check_endless(self.variant, PARALLEL)

    @property
    def steadiness(self) -> str:
        return (
            f"the step times of modes of constant cost spread by at most {self.max_spread:.0%} (interquartile range "
            "by median, second half)"
        )

    def settled(self, cuda: bool) -> Self:
        settled = super().settled(cuda, self.model)
        defaults = {key: value for key, value in DEFAULTS[settled.device].items() if getattr(self, key) is None}
        named = {name: mode_of(name) for name in self.modes or ()}
        known = {name: mode for name, mode in (MODES | named).items() if mode.engine or not self.keep}
        if self.model is None:
            return replace(settled, **defaults, variant=self.variant or "group", modes=self.modes or tuple(known))
        own = saved_settings(self.model).get("variant")
        variant = self.variant or (own if own in PARALLEL else "group")
        able = tuple(name for name, mode in known.items() if own in (None, mode.system or mode.variant or variant))
        if unable := [name for name in self.modes or () if name not in able]:
            has = ", ".join(able) or "none here"
            raise UserError(f"{self.model} is trained as {own!r}: it has no mode {unable[0]!r}, but {has}")
        if not able:
            raise UserError(f"{self.model} is trained as {own!r}, of which no mode goes on without end")
        defaults |= {"shape": None} | ({"video_tokens": None} if self.video else {})
        return replace(settled, **defaults, variant=variant, modes=self.modes or able)
