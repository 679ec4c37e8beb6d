"""Narrate one video while watching it: live text in the terminal, one JSON object per token with --jsonl.

Lines of --jsonl with a `token_id` are tokens; others name their `event`, watched or asked.
"""

from dataclasses import dataclass
from pathlib import Path

from swwatch.config import REQUIRED, read_settings, setting
from swwatch.data.video import iter_steps
from swwatch.engine.choose import AUTO, check_name
from swwatch.errors import UserError
from swwatch.model.flags import ModelFlags
from swwatch.policies.choose import Greedy


@dataclass(frozen=True, kw_only=True)
class StreamSettings(ModelFlags):
    """Flags of `swwatch stream`."""

    video: Path = setting(REQUIRED, "a video file")
    engine: str = setting(AUTO, "who watches while words are said: auto, serial, fused, streams or two_device")
    question: str | None = setting(None, "what to ask (default: the evaluation question of configs/prompts.yaml)")
    max_new_tokens: int | None = setting(None, "limit of the whole answer (default: 300, with --window none)")
    repetition_penalty: float = setting(1.15, "1 is off")
    stop_early: bool = setting(False, "let <|im_end|> end the answer before the last second")
    max_frames: int = setting(60, "longest video accepted without --window, in frames at 2 fps")
    window: int | None = setting(None, "for streams without end: keep the newest seconds of video", metavar="SECONDS")
    text_sink: int = setting(512, "first answer tokens that stay with --window")
    text_window: int = setting(512, "last answer tokens that stay with it")
    jsonl: Path | None = setting(None, "write one JSON object per token here")
    realtime: bool = setting(False, "play the file at its own pace, and show every lag")

    def __post_init__(self):
        super().__post_init__()
        check_name(self.engine)
        if self.max_new_tokens is None and self.window is None:
            object.__setattr__(self, "max_new_tokens", 300)
        Greedy(self.repetition_penalty, self.max_new_tokens)  # refuses what makes no sense
        if self.jsonl and self.jsonl.resolve() == self.video.resolve():
            raise UserError("--jsonl names the video itself: choose another file")


def main(argv: list[str]) -> int:
    settings = read_settings(StreamSettings, argv, program="swwatch stream", about=__doc__)
    settings.check_model(settings.model)
    steps = iter_steps(settings.video, max_frames=settings.max_frames if settings.window is None else None)
    first = next(steps)  # an unreadable file is told before torch is imported
    from swwatch.narrate.stream import stream

    return stream(settings, first, steps)
