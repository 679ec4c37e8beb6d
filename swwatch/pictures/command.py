"""Draw the positions and the mask of a variant, as the paper's figures 2 and 3 do; or print them as text.

With --seconds it is a stream without end: what is kept as time goes by, what was let go, and where the rest stands. So
for streamingvlm and livecc always; of vst and tww it is a dialogue, with all that they read. With --keep it is what a
model has in view under that policy. With --see it is a video: what that policy leaves of its first steps; with --video
alone, how many words --schedule has for each of them. With --decided it is a stream that was: what its schedule
decided, step by step.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from swwatch.config import read_settings, setting
from swwatch.errors import UserError
from swwatch.model.checks import check_checkpoint
from swwatch.model.settings import check_see
from swwatch.paths import writing
from swwatch.policies import keep as keeping
from swwatch.policies.see import SEE, parse_see
from swwatch.policies.speak import check_schedule, parse_schedule
from swwatch.policies.table import forms
from swwatch.policies.think import THINK, parse_think
from swwatch.rules import turn_positions, variants
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.variants import TURNS

LONGEST_S = 600  # of a stream that is drawn
LONGEST_KEPT_S = 90  # of one whose tokens are known again: each second says a byte of its own


@dataclass(frozen=True, kw_only=True)
class StreamWithoutEnd:
    """What is drawn of one; the defaults are small, so that something goes."""

    heading: ClassVar[str] = "streams without end"

    seconds: int | None = setting(None, "of the stream (default: 60 for streamingvlm and livecc)")
    words: int = setting(3, "said a second")
    window: int = setting(16, "seconds of video that are kept")
    text_sink: int = setting(12, "first words that are kept")
    text_window: int = setting(24, "last words that are kept")
    flush: int = setting(20, "all video goes when there is so much, in seconds")
    eviction: str | None = setting(None, f"of streamingvlm, livecc: {', '.join(keeping.EVICTIONS)} (default: theirs)")
    positions: str | None = setting(None, f"likewise: {', '.join(turn_positions.POLICIES)}")


@dataclass(frozen=True, kw_only=True)
class VideoUnderPolicy:
    """What is drawn of one."""

    heading: ClassVar[str] = "what a policy makes of a video, or of a stream"

    see: str | None = setting(None, f"what is left of it: {forms(SEE)}")
    keep: str | None = setting(None, f"what of it is in view as time goes by: {forms(keeping.KEEP)}")
    video: Path | None = setting(None, "a video file, of which the first --steps are drawn")
    model: str | None = setting(None, "checkpoint folder or hub id that watches it")
    sheet: Literal["keep", "speak"] | None = setting(None, "one picture of all policies of a table: keep or speak")

    @property
    def shows_kept(self) -> bool:
        """It is what KEEP policies have in view."""
        return self.keep is not None or self.sheet == "keep"

    @property
    def plays(self) -> bool:
        """It is how schedules speak over a video."""
        return self.sheet == "speak" or self.video is not None and self.see is None

    def check_watched(self) -> None:
        """Raises UserError: not all is given, or it is not there."""
        if self.see is not None and None in (self.video, self.model):
            raise UserError("--see, --video and --model go together: a policy, what it looks at, and with which eyes")
        if self.plays and None in (self.video, self.model):
            raise UserError("--video and --model go together: what is watched, and by whom")
        if self.shows_kept and self.model is None:
            raise UserError("--keep is drawn of a model that streams: give --model (swwatch toy model makes one)")
        if sum((self.see is not None, self.keep is not None, self.sheet is not None)) > 1:
            raise UserError("--see, --keep and --sheet are pictures of their own: give one of them")
        see = None if self.see is None else parse_see(self.see)
        if self.keep is not None:
            keeping.parse_keep(self.keep)
        if self.model is not None:
            check_checkpoint(self.model)
        if see is not None:
            check_see(see, self.model)
        if self.video is not None and not self.video.is_file():
            raise UserError(f"cannot use the video {self.video}: there is no such file")


@dataclass(frozen=True, kw_only=True)
class InspectSettings(VideoUnderPolicy, StreamWithoutEnd):
    """Flags of `swwatch inspect`."""

    variant: str = setting("all", f"one of the variants, {', '.join(TURNS)}, or all variants")
    out: Path = setting(Path("output/inspect"), "folder for VARIANT.png")
    prompt_len: int = setting(4, "tokens before the video")
    steps: int = setting(4, "video steps (seconds)")
    grid: str = setting("2x2", "merged rows x columns of a step's patch")
    answer_len: int = setting(13, "spoken tokens, <|im_end|> included")
    schedule: str = setting("wait-k:3", "wait-k:3, random:3:seed=0")
    think: str | None = setting(None, f"draw thoughts, too, of a group, gap or overlap: {forms(THINK)}")
    text: bool = setting(False, "print a table of tokens instead of drawing")
    decided: Path | None = setting(
        None, "what swwatch stream --jsonl wrote, under a schedule that decides as it streams"
    )

    def __post_init__(self):
        if self.variant != "all":
            variants.get(self.variant)
        parse_schedule(self.schedule)
        self.check_thoughts()
        self.check_watched()
        if min(self.steps, *self.size) < 1 or min(self.prompt_len, self.answer_len) < 0:
            raise UserError("--steps and --grid must be at least 1, --prompt-len and --answer-len at least 0")
        if self.thinks and (self.seconds or self.eviction or self.positions or self.shows_kept):
            raise UserError(
                f"{self.variant} is drawn as a dialogue of --steps and --grid, and not as a stream without end: leave "
                "out --keep, --seconds, --eviction and --positions"
            )
        if self.text and (self.shows_kept or self.plays):
            raise UserError("--text prints tables of other pictures: leave it out, this one has none")
        if self.shows_kept:
            self.check_kept()
        if self.plays and self.variant != "all":
            check_schedule(self.schedule, self.variant)
        if not self.has_no_end:
            return
        if self.seconds is not None and not 5 <= self.seconds <= LONGEST_S or self.words < 1:
            raise UserError(f"--seconds must be 5 to {LONGEST_S}, --words at least 1")
        if self.variant == "all":
            raise UserError("a stream without end is drawn of one variant: say --variant group, streamingvlm, ...")
        if self.variant not in TURNS and (self.eviction or self.positions):
            raise UserError("--eviction and --positions are for --variant streamingvlm and livecc")
        keeping.check_eviction(self.eviction)
        if self.positions is not None:
            turn_positions.get(self.positions)

    def check_thoughts(self) -> None:
        """Raises UserError: --think is not understood, or nobody thinks in the picture."""
        if self.think is None:
            return
        think = parse_think(self.think)
        if self.variant == "all" or self.seconds is not None:
            raise UserError("--think is for the sample of one variant: say --variant group, and leave out --seconds")
        think.check(variants.get(self.variant))

    def check_kept(self) -> None:
        """Raises UserError: the variant cannot be kept so, no such stream can be drawn, or a flag is of another
        picture."""
        if self.eviction or self.positions:
            raise UserError("--eviction and --positions are of another picture: leave out --keep and --sheet")
        if not 5 <= (self.seconds or LONGEST_KEPT_S) <= LONGEST_KEPT_S or self.words < 1:
            raise UserError(f"what is in view is drawn of 5 to {LONGEST_KEPT_S} --seconds, with --words at least 1")
        if self.keep is not None and self.variant != "all":
            keeping.parse_keep(self.keep).check(variants.get(self.variant))

    @property
    def thinks(self) -> bool:
        """Whether a dialogue of a system that thinks is drawn."""
        return self.variant in SYSTEMS and SYSTEMS[self.variant].thinks

    @property
    def has_no_end(self) -> bool:
        """Whether a stream without end is drawn."""
        apart = self.shows_kept or self.plays or self.see is not None or self.thinks
        return not apart and (self.seconds is not None or self.variant in TURNS)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a step's patch. Raises UserError: --grid is not understood."""
        try:
            rows, columns = (int(n) for n in self.grid.lower().split("x"))
        except ValueError as error:
            raise UserError(f"--grid {self.grid!r} is not understood: write rows x columns, as 2x3") from error
        return rows, columns


def main(argv: list[str]) -> int:
    settings = read_settings(InspectSettings, argv, program="swwatch inspect", about=__doc__)
    with writing(settings.out):
        return show(settings)


def show(settings: InspectSettings) -> int:
    """Draw, or print, what is asked for."""
    if settings.decided is not None:
        from swwatch.pictures.decided import show_decided

        return show_decided(settings)
    if settings.see is not None:
        from swwatch.pictures.seen import show_seen

        return show_seen(settings)
    if settings.shows_kept:
        from swwatch.pictures.kept import show_kept

        return show_kept(settings)
    if settings.plays:
        from swwatch.pictures.decided import show_played

        return show_played(settings)
    from swwatch.pictures.show import show_dialogue, show_endless, show_samples

    if settings.thinks:
        return show_dialogue(settings)
    return show_endless(settings) if settings.has_no_end else show_samples(settings)
