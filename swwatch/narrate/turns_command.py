"""Comment on a video in chat turns, for as long as it lasts, as StreamingVLM and LiveCC do."""

from dataclasses import dataclass, replace
from pathlib import Path

from swwatch.config import REQUIRED, read_settings, setting
from swwatch.data.video import iter_steps
from swwatch.errors import UserError
from swwatch.model.flags import DeviceFlags
from swwatch.policies import keep
from swwatch.rules import turn_positions
from swwatch.rules.systems import get

WINDOWS = {  # flag -> what it sets of keep.Windows
    "vision_seconds": "vision_s",
    "turns_seconds": "turns_s",
    "flush_seconds": "flush_s",
    "text_sink": "text_sink",
    "text_window": "text_window",
}
USES = {  # flags that have a use only where something is forgotten so, or words are drawn
    "slides": ("vision_seconds", "turns_seconds", "text_sink", "text_window"),
    "restarts": ("vision_seconds",),
    "flushes": ("flush_seconds",),
    "draws": ("temperature", "top_k", "top_p"),
}


@dataclass(frozen=True, kw_only=True)
class TurnsSettings(DeviceFlags):
    """Flags of `swwatch turns`."""

    model: str = setting(REQUIRED, "checkpoint folder or hub id")
    video: Path = setting(REQUIRED, "a video file of any length")
    system: str | None = setting(None, "streamingvlm or livecc; needed where the checkpoint does not name one")
    query: str | None = setting(None, "what is asked in the first turn (default: the system's own)")
    previous: str = setting("", "what was said before (systems that keep previous text)")
    eviction: str | None = setting(None, f"what is forgotten: {', '.join(keep.POLICIES)} (default: the system's)")
    positions: str | None = setting(
        None, f"where tokens stand: {', '.join(turn_positions.POLICIES)} (default: the system's)"
    )
    vision_seconds: float | None = setting(None, "seconds of video that stay in view")
    turns_seconds: float | None = setting(None, "seconds for which answers stay turns of their own")
    text_sink: int | None = setting(None, "first tokens of the previous text that stay")
    text_window: int | None = setting(None, "last tokens of it that stay")
    flush_seconds: float | None = setting(None, "all video goes when there is so much of it")
    steps_per_turn: int = setting(1, "seconds in a turn")
    max_new_tokens: int | None = setting(None, "of a turn")
    greedy: bool = setting(False, "take the likeliest token instead of drawing one")
    temperature: float | None = setting(None, "of draws (default: the system's, else the checkpoint's)")
    top_k: int | None = setting(None, "draw among so many; 0 is off (default: the checkpoint's, else 50)")
    top_p: float | None = setting(None, "draw among so much; 1 is off (default: the checkpoint's, else 1)")
    repetition_penalty: float | None = setting(None, "1 is off")
    threshold: float | None = setting(None, '" ..." must be likelier than this: higher talks more (LiveCC)')
    threshold_step: float = setting(0.0, "added to it with every token of a turn")
    seed: int = setting(42, "of the draws")
    realtime: bool = setting(False, "play the file at its own pace")
    jsonl: Path | None = setting(None, "write one JSON object per turn here")
    vtt: Path | None = setting(None, "write subtitles (WebVTT) here")

    def __post_init__(self):
        super().__post_init__()
        if self.eviction is not None:
            keep.get(self.eviction)
        if self.positions is not None:
            turn_positions.get(self.positions)
        if self.steps_per_turn < 1:
            raise UserError(f"--steps-per-turn must be at least 1, not {self.steps_per_turn}")
        if self.threshold is None and self.threshold_step:
            raise UserError("--threshold-step is added to --threshold: give both")
        if self.system is not None:
            self.windows(self.system)

    def windows(self, system: str) -> keep.Windows:
        """How much is kept.

        Raises:
            UserError: numbers that make no sense, flags that would change nothing, or a way to forget that would
                forget nothing.
        """
        row = get(system)
        given = {name: getattr(self, flag) for flag, name in WINDOWS.items() if getattr(self, flag) is not None}
        windows, eviction = replace(keep.default_windows(row), **given), keep.get(self.eviction or row.eviction)

        used = {flag for how, flags in USES.items() if how != "draws" and getattr(eviction, how) for flag in flags}
        used |= set() if self.greedy else set(USES["draws"])
        for flag in dict.fromkeys(flag for flags in USES.values() for flag in flags):
            if getattr(self, flag) is not None and flag not in used:
                why = "--greedy" if flag in USES["draws"] else f"--eviction {eviction.name}"
                raise UserError(f"--{flag.replace('_', '-')} has no use with {why}: leave one of them out")

        held = {"vision-seconds": windows.vision_s} if eviction.slides or eviction.restarts else {}
        held |= {"flush-seconds": windows.flush_s} if eviction.flushes else {}
        for flag, value in held.items():
            if value is None:
                raise UserError(f"--eviction {eviction.name} would keep all video here: give --{flag}")
        return windows


def main(argv: list[str]) -> int:
    settings = read_settings(TurnsSettings, argv, program="swwatch turns", about=__doc__)
    settings.check_model(settings.model)
    steps = iter_steps(settings.video, max_frames=None)  # an unreadable file is told before torch is imported
    from swwatch.narrate.turns_stream import stream_turns

    return stream_turns(settings, steps)
