"""Every setting of `swwatch bench endless`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from swwatch.bench.endless.modes import MODES
from swwatch.bench.shapes import SHAPES
from swwatch.config import setting
from swwatch.errors import UserError
from swwatch.rules import variants
from swwatch.rules.variants import Speaks, speaking

PARALLEL = speaking(Speaks.PARALLEL)

DEFAULTS = {
    "cpu": {"shape": "toy", "seconds": 240, "video_tokens": 16, "restart_s": 60.0, "flush_s": 60.0}
    | {"text_sink": 64, "text_window": 64, "mode_s": 60.0, "precision": "float32"},
    "cuda": {"shape": "7b", "seconds": 1000, "video_tokens": 256, "restart_s": 100.0, "flush_s": 240.0}
    | {"text_sink": 512, "text_window": 512, "mode_s": 240.0, "precision": "bfloat16"},
}


@dataclass(frozen=True)
class EndlessSettings:
    """Settings of `swwatch bench endless`."""

    # what
    modes: tuple[str, ...] | None = setting(None, f"which (default: all): {', '.join(MODES)}")
    shape: str | None = setting(None, f"random model of: {', '.join(SHAPES)} (default: toy, on cuda 7b)")
    variant: str = setting("group", f"of the modes serial and fused: {', '.join(PARALLEL)}")
    seconds: int | None = setting(None, "of the stream, a step each (default: 240, on cuda 1000)")
    video_tokens: int | None = setting(None, "a second (default: 16, on cuda 256)")
    tokens: int = setting(10, 'said a second; in chat turns the last two are " ..." and <|im_end|>')
    # windows
    vision_s: int = setting(16, "seconds of video that windows keep")
    restart_s: float | None = setting(None, "the window without overlap (default: 60, on cuda 100)")
    flush_s: float | None = setting(None, "all video goes when there is so much of it (default: 60, on cuda 240)")
    text_sink: int | None = setting(None, "first tokens of what was said that stay (default: 64, on cuda 512)")
    text_window: int | None = setting(None, "last tokens of it that stay (default: 64, on cuda 512)")
    # how
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "cpu or cuda (auto: cuda where there is one)")
    precision: Literal["auto", "float32", "bfloat16"] = setting("auto", "of the weights (auto: bfloat16 on cuda)")
    mode_s: float | None = setting(None, "a mode is stopped after so many seconds (default: 60, on cuda 240)")
    threads: int | None = setting(None, "CPU threads (default: torch's own choice)")
    seed: int = setting(0, "of random weights and pixels")
    # judging
    max_load: float = setting(0.5, "too busy: load average before the start above this share of the cores")
    max_others: float = setting(0.25, "too busy: other programs used more than this share of the cores meanwhile")
    max_spread: float = setting(0.15, "too busy: step times of a mode of constant cost spread by more than this")
    output: Path | None = setting(None, "folder for bench_endless.json, .md and the figures")
    report: Path | None = setting(None, "measure nothing: draw the tables and figures of this JSON file again")

    def __post_init__(self):
        unknown = [name for name in self.modes or () if name not in MODES]
        if unknown:
            raise UserError(f"no mode {unknown[0]!r}: choose from {', '.join(MODES)}")
        if self.shape is not None and self.shape not in SHAPES:
            raise UserError(f"no shape {self.shape!r}: choose from {', '.join(SHAPES)}")
        if variants.get(self.variant).name not in PARALLEL:
            raise UserError(f"the variant {self.variant!r} has no endless form: choose {', '.join(PARALLEL)}")
        if self.tokens < 3:
            raise UserError(f'tokens must be at least 3, a word, " ..." and <|im_end|>, not {self.tokens}')
        if self.seconds is not None and self.seconds < 5:
            raise UserError(f"a stream needs at least 5 seconds, not {self.seconds}")
        for name in ("video_tokens", "vision_s", "restart_s", "flush_s", "text_window", "mode_s", "threads"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise UserError(f"{name} must be above 0, not {value:g}")
        if self.text_sink is not None and self.text_sink < 0:
            raise UserError(f"text_sink must not be below 0, not {self.text_sink}")


def settle(settings: EndlessSettings, cuda: bool) -> EndlessSettings:
    """Decide what depends on the machine.

    Raises:
        UserError: the device that was asked for is not there.
    """
    device = settings.device if settings.device != "auto" else "cuda" if cuda else "cpu"
    if device == "cuda" and not cuda:
        raise UserError("device cuda was asked for, but this machine has no CUDA device: use --device cpu")
    open_ones = {key: value for key, value in DEFAULTS[device].items() if getattr(settings, key) in (None, "auto")}
    return replace(settings, **open_ones, device=device, modes=settings.modes or tuple(MODES))
