"""Comment on a video in chat turns, for as long as it lasts, as StreamingVLM and LiveCC do."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from swwatch.config import REQUIRED, check_least, read_settings, setting
from swwatch.errors import UserError
from swwatch.model.checks import saved_settings
from swwatch.model.flags import DeviceFlags, SessionFlags
from swwatch.narrate.record import ClipFlags
from swwatch.policies import keep
from swwatch.policies.choose import Choosing
from swwatch.rules import turn_positions
from swwatch.rules.systems import SYSTEMS, Context, get

WINDOWS = {  # flag -> the option of a policy that it sets
    "vision_seconds": "vision_s",
    "turns_seconds": "turns_s",
    "flush_seconds": "flush_s",
    "text_sink": "text_sink",
    "text_window": "text_window",
}
OWN = Path("own")  # of --say
IN_VIEW = ("vision_s", "turns_s")  # what --seconds-in-view sets
DRAWS = ("temperature", "top_k", "top_p")  # flags that have a use only where words are drawn
CHOOSES = (*DRAWS, "seed", "max_new_tokens", "threshold", "threshold_step", "repetition_penalty")


@dataclass(frozen=True, kw_only=True)
class TurnsSettings(SessionFlags, DeviceFlags, ClipFlags):
    """Flags of `swwatch turns`."""

    model: str = setting(REQUIRED, "checkpoint folder or hub id")
    system: str | None = setting(None, f"{', '.join(SYSTEMS)}; needed where the checkpoint does not name one")
    query: str | None = setting(None, "what is asked in the first turn, '' for nothing (default: the system's own)")
    previous: str | None = setting(None, "what was said before (systems that keep previous text)")
    context: Context = setting("none", f"what the question of --record tells besides: {', '.join(get_args(Context))}")
    say: Path | None = setting(
        None,
        "a file of words that stand in the stream in place of what is said, or 'own' for those of --record",
    )
    eviction: str | None = setting(None, f"what is forgotten: {', '.join(keep.EVICTIONS)} (default: the system's)")
    positions: str | None = setting(
        None, f"where tokens stand: {', '.join(turn_positions.POLICIES)} (default: the system's)"
    )
    seconds_in_view: float | None = setting(None, "--vision-seconds and --turns-seconds in one number")
    vision_seconds: float | None = setting(None, "seconds of video that stay in view")
    turns_seconds: float | None = setting(None, "seconds for which answers stay turns of their own")
    text_sink: int | None = setting(None, "first tokens of the previous text that stay")
    text_window: int | None = setting(None, "last tokens of it that stay")
    flush_seconds: float | None = setting(None, "all video goes when there is so much of it")
    seconds_per_turn: float | None = setting(
        None,
        "of video, whole patches of two frames (default: 1, or what a patch lasts)",
        above=0,
        also="steps_per_turn",
    )
    max_new_tokens: int | None = setting(None, "of a turn")
    greedy: bool = setting(False, "take the likeliest token instead of drawing one")
    temperature: float | None = setting(None, "of draws (default: the system's, else the checkpoint's)")
    top_k: int | None = setting(None, "draw among so many; 0 is off (default: the checkpoint's, else 50)")
    top_p: float | None = setting(None, "draw among so much; 1 is off (default: the checkpoint's, else 1)")
    repetition_penalty: float | None = setting(None, "1 is off")
    threshold: float | None = setting(None, '" ..." must be likelier than this: higher talks more (LiveCC)')
    threshold_step: float | None = setting(None, "added to it with every token of a turn")
    seed: int | None = setting(None, "of the draws (default: 42)")
    realtime: bool = setting(False, "play the file at its own pace")
    jsonl: Path | None = setting(None, "write one JSON object per turn here")
    vtt: Path | None = setting(None, "write subtitles (WebVTT) here")
    silent_cues: bool = setting(False, "turns of silence are subtitles, too")

    def __post_init__(self):
        super().__post_init__()
        ClipFlags.__post_init__(self)
        check_least(self)
        self.check_choose("greedy", *CHOOSES)
        self._check_record()
        keep.check_eviction(self.eviction)
        if self.positions is not None:
            turn_positions.get(self.positions)
        if self.threshold is None and self.threshold_step:
            raise UserError("--threshold-step is added to --threshold: give both")
        if self.silent_cues and not self.vtt:
            raise UserError("--silent-cues is of subtitles: give --vtt")
        if self.system is not None and not Path(self.model).is_dir():  # a folder is asked what it keeps first
            self.check_system(self.system)

    def _check_record(self) -> None:
        if self.record is None and (self.says_own or self.context != "none"):
            flag = "--say own" if self.says_own else "--context"
            raise UserError(f"{flag} is of a training record: give --record")
        if self.say is not None and not self.says_own and not self.say.is_file():
            raise UserError(f"--say: there is no file {self.say}")

    @property
    def says_own(self) -> bool:
        """Whether the words of the training record stand in the stream."""
        return self.say == OWN

    def check_system(self, system: str, own: str | None = None) -> None:
        """Refuse what the system does not do.

        Args:
            own: what the checkpoint keeps, where it says.
        Raises:
            UserError: see `keep_policy`; previous text or positions of another system.
        """
        row = get(system)
        self.keep_policy(system, own)
        if self.previous and not row.previous_text:
            raise UserError(f"{system} keeps no previous text: put --previous into --query")
        turn_positions.of(row, self.positions)

    def keep_policy(self, system: str, own: str | keep.Keep | None = None) -> keep.Keep:
        """What is kept: --keep, or what its short names change of the checkpoint's own policy or the system's.

        Args:
            own: what the checkpoint keeps, where it says.
        Raises:
            UserError: numbers that make no sense, flags that would change nothing, or a way to forget that would
                forget nothing.
        """
        given = {name: getattr(self, flag) for flag, name in WINDOWS.items() if getattr(self, flag) is not None}
        own = own or get(system).keep
        if self.keep is not None:
            self.check_keep("eviction", "seconds_in_view", *WINDOWS)
            return keep.parse_keep(self.keep)
        kind = keep.KEEP[keep.name_of(self.eviction or keep.parse_keep(own).name)]

        why = f"--eviction {self.eviction or kind.name}"
        idle = {flag: why for flag, name in WINDOWS.items() if name not in kind.windows}
        if "vision_s" not in kind.windows:
            idle["seconds_in_view"] = why
        elif self.seconds_in_view is not None:
            idle |= {flag: "--seconds-in-view" for flag, name in WINDOWS.items() if name in IN_VIEW}
            given |= {name: self.seconds_in_view for name in IN_VIEW if name in kind.windows}
        idle |= dict.fromkeys(DRAWS, "--greedy") if self.greedy else {}
        for flag, why in idle.items():
            if getattr(self, flag) is not None:
                raise UserError(f"--{flag.replace('_', '-')} has no use with {why}: leave one of them out")
        return keep.with_numbers(own, self.eviction, given)

    def settled_keep(self, path: str | Path | None) -> keep.Keep | None:
        """As of SessionFlags; --eviction and the windows are short names of --keep."""
        saved = {} if path is None else saved_settings(path)
        system = self.system or saved.get("variant")
        return self.keep_policy(system, saved.get("keep")) if system in SYSTEMS else super().settled_keep(path)

    def choose_policy(self, own: Choosing) -> Choosing:
        """How tokens are chosen.

        Args:
            own: of the checkpoint, or of the system.
        Raises:
            UserError: numbers that make no sense.
        """
        numbers = {name: getattr(self, name) for name in CHOOSES} | {"penalty": self.repetition_penalty}
        numbers = {name: value for name, value in numbers.items() if value is not None}
        if self.greedy or numbers.keys() & set(DRAWS):
            own = own.drawing(not self.greedy)
        return replace(own, **{name: value for name, value in numbers.items() if name in vars(own)})

    def lopsided(self, policy: keep.Keep) -> str | None:
        """What it means that one window was given and the other is the system's own, where they differ.

        Args:
            policy: what is kept.
        """
        given = [s for s in (self.vision_seconds, self.turns_seconds) if s is not None]
        if len(given) != 1 or not set(IN_VIEW) <= set(policy.windows) or policy.vision_s == policy.turns_s:
            return None
        seen, turns = f"{policy.vision_s:g} s", f"{policy.turns_s:g} s"
        if policy.vision_s < policy.turns_s:
            what = f"video goes after {seen}, and its labels and answers stay turns for {turns}"
        else:
            what = f"answers join the previous text after {turns}, and their video stays for {seen}"
        return f"{what} (--seconds-in-view {given[0]:g}: both at once)"


def main(argv: list[str]) -> int:
    settings = read_settings(TurnsSettings, argv, program="swwatch turns", about=__doc__)
    settings.check_model(settings.model)
    settings.check_video()
    fps = settings.settled_fps(settings.model)
    if settings.record is None:
        clip = settings.clip(None, fps)
        steps = clip.steps()  # an unreadable file is told before torch is imported
    saved = saved_settings(settings.model)
    system = settings.system or saved.get("variant")
    if system in SYSTEMS:
        settings.check_system(system, saved.get("keep"))
        get(system).patches_of_turns(fps, settings.seconds_per_turn or saved.get("seconds_per_turn"))
    if settings.record is not None:
        if system is None:
            raise UserError(f"{settings.model} does not say how it streams: give --system {' or '.join(SYSTEMS)}")
        clip = settings.clip(get(system).name, fps)
        steps = clip.steps()
    from swwatch.narrate.turns_stream import stream_turns

    return stream_turns(settings, clip, steps)
