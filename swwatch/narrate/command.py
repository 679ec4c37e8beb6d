"""Narrate one video while watching it: live text in the terminal, one JSON object per token with --jsonl.

Lines of --jsonl without an `event` are tokens; others name it: watched, asked, thought (a token that is thought under
--think, and not said), decided (by a schedule that decides while it streams: num_tokens 0 is silence), or turn, the
end of a chat turn.
"""

from dataclasses import dataclass
from pathlib import Path

from swwatch.config import read_settings, setting
from swwatch.engine.choose import AUTO, check_keep, check_name
from swwatch.errors import UserError
from swwatch.model.checks import saved_settings
from swwatch.model.flags import ModelFlags, SessionFlags
from swwatch.narrate.record import ClipFlags
from swwatch.policies.choose import Greedy
from swwatch.policies.keep import Window
from swwatch.policies.table import Policy
from swwatch.rules.variants import TURNS


@dataclass(frozen=True, kw_only=True)
class StreamSettings(SessionFlags, ModelFlags, ClipFlags):
    """Flags of `swwatch stream`."""

    engine: str = setting(AUTO, "who watches while words are said: auto, serial, fused, streams or two_device")
    question: str | None = setting(
        None, "what to ask (default: the evaluation question of configs/prompts.yaml, or the chat system's own)"
    )
    max_new_tokens: int | None = setting(
        None, "limit of the whole answer (default: 300, with --window none), or of a chat turn (the system's own)"
    )
    repetition_penalty: float | None = setting(None, "1 is off (default: 1.15, or the chat system's own)")
    stop_early: bool = setting(False, "let <|im_end|> end the answer before the last second")
    max_frames: int = setting(60, "longest video accepted in frames; none is too long with --window or in chat turns")
    window: int | None = setting(None, "the newest seconds of video stay, as --keep window:SECONDS", metavar="SECONDS")
    text_sink: int = setting(512, "first answer tokens that stay with --window")
    text_window: int = setting(512, "last answer tokens that stay with it")
    jsonl: Path | None = setting(None, "write one JSON object per token here")
    realtime: bool = setting(False, "play the file at its own pace, and show every lag")

    def __post_init__(self):
        super().__post_init__()
        ClipFlags.__post_init__(self)
        check_name(self.engine)
        self.check_choose("max_new_tokens", "repetition_penalty", "stop_early")
        if self.keep is not None and self.window is not None:
            raise UserError(f"--keep {self.keep} and --window {self.window} both say what stays: give one of them")
        penalty = 1.15 if self.repetition_penalty is None else self.repetition_penalty
        Greedy(penalty, self.max_new_tokens)  # refuses what makes no sense
        for file in (self.video, self.record):
            if self.jsonl and file and self.jsonl.resolve() == file.resolve():
                raise UserError(f"--jsonl names {file} itself: choose another file")

    def session_policies(self) -> dict[str, Policy]:
        """As of SessionFlags; --window is a short name of --keep."""
        window = {} if self.window is None else {"keep": Window(self.window, self.text_sink, self.text_window)}
        return super().session_policies() | window


def main(argv: list[str]) -> int:
    settings = read_settings(StreamSettings, argv, program="swwatch stream", about=__doc__)
    settings.check_model(settings.model)
    settings.check_video()
    variant = settings.variant or saved_settings(settings.model).get("variant")
    keep = settings.settled_keep(settings.model)
    check_keep(settings.engine, keep)
    endless = (keep is not None and keep.forgets) or variant in TURNS
    clip = settings.clip(variant, settings.settled_fps(settings.model))
    steps = clip.steps(None if endless else settings.max_frames)
    first = next(steps)  # an unreadable file is told before torch is imported
    from swwatch.narrate.stream import stream

    return stream(settings, clip, first, steps)
