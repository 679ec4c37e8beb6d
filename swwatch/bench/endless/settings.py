"""Every setting of `swwatch bench endless`."""

from dataclasses import dataclass, replace
from typing import Self

from swwatch.bench.endless.modes import MODES
from swwatch.bench.settings import BenchSettings, check_known
from swwatch.bench.shapes import SHAPES
from swwatch.config import setting
from swwatch.errors import UserError
from swwatch.rules import variants
from swwatch.rules.variants import Speaks, speaking

PARALLEL = speaking(Speaks.PARALLEL)

DEFAULTS = {
    "cpu": {"shape": "toy", "seconds": 240, "video_tokens": 16, "restart_s": 60.0, "flush_s": 60.0}
    | {"text_sink": 64, "text_window": 64, "mode_s": 60.0},
    "cuda": {"shape": "7b", "seconds": 1000, "video_tokens": 256, "restart_s": 100.0, "flush_s": 240.0}
    | {"text_sink": 512, "text_window": 512, "mode_s": 240.0},
}


@dataclass(frozen=True)
class EndlessSettings(BenchSettings):
    """Measure streams without end: what a second of one costs, and takes in memory, the longer it lasts.

    All modes watch the same random pixels with the same random weights and say as many tokens a second: full
    attention, a window without overlap, a window read anew, sinks and windows (StreamingVLM), a flush of all video
    (LiveCC), and a parallel variant of this project with a window, watching before it speaks (serial) or meanwhile
    (fused). Nothing is downloaded. Every mode has a time limit and says so where it is met; the file is written anew
    after each.
    """

    # what
    modes: tuple[str, ...] | None = setting(None, f"which (default: all): {', '.join(MODES)}")
    shape: str | None = setting(None, f"random model of: {', '.join(SHAPES)} (default: toy, on cuda 7b)")
    variant: str = setting("group", f"of the modes serial and fused: {', '.join(PARALLEL)}")
    seconds: int | None = setting(None, "of the stream, a step each (default: 240, on cuda 1000)", least=5)
    video_tokens: int | None = setting(None, "a second (default: 16, on cuda 256)", above=0)
    tokens: int = setting(10, 'said a second; in chat turns the last two are " ..." and <|im_end|>', least=3)
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
        check_known("mode", self.modes, MODES)
        check_known("shape", self.shape, SHAPES)
        if variants.get(self.variant).name not in PARALLEL:
            raise UserError(f"the variant {self.variant!r} has no endless form: choose {', '.join(PARALLEL)}")

    @property
    def steadiness(self) -> str:
        return (
            f"the step times of modes of constant cost spread by at most {self.max_spread:.0%} (interquartile range "
            "by median, second half)"
        )

    def settled(self, cuda: bool) -> Self:
        settled = super().settled(cuda)
        defaults = {key: value for key, value in DEFAULTS[settled.device].items() if getattr(self, key) is None}
        return replace(settled, **defaults, modes=self.modes or tuple(MODES))
