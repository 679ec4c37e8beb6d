"""What a checkpoint must know about itself: variant, policies, pixel budget, frame rate.

Kept under "swwatch" in config.json.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from swwatch.config import look_up
from swwatch.data.budget import BUDGETS
from swwatch.errors import UserError
from swwatch.model.checks import ADAPTER, saved_config
from swwatch.policies.choose import Choosing, Greedy, parse_choose
from swwatch.policies.keep import ALL as ALL_STAYS
from swwatch.policies.keep import Keep, parse_keep
from swwatch.policies.see import ALL, See, parse_see
from swwatch.policies.speak import Speak, parse_schedule
from swwatch.policies.think import Think, parse_think
from swwatch.rules import systems, variants
from swwatch.rules.families import FAMILIES
from swwatch.rules.schedule import FPS, seconds_of_step

DEFAULT_SCHEDULE, DEFAULT_SEE, DEFAULT_BUDGET = "wait-k:3", "all", "declared"
# what Settings.resolve may be asked for
OVERRIDES = (
    "variant",
    "schedule",
    "pixel_budget",
    "see",
    "fps",
    "other_fps",
    "seconds_per_turn",
    "keep",
    "choose",
    "think",
)
MOST_FPS = 120.0  # no source has more
OTHER = "; to watch at another rate than it was trained at, say so with --other-fps"


@dataclass(frozen=True)
class Settings:
    """How a model was, or is to be, trained and used.

    Attributes:
        schedule: of the table SPEAK; see: of the table SEE.
        fps: frames a second that it watches.
        seconds_per_turn: of a chat system; None: as System.patches_of_turns has it.
        keep, choose: of the tables KEEP and CHOOSE; None: as the form of the session has it, see `own_keep`.
        think: of the table THINK; None: nothing is thought.
    """

    variant: str
    schedule: Speak
    pixel_budget: str
    see: See = ALL
    fps: float = FPS
    seconds_per_turn: float | None = None
    keep: Keep | None = None
    choose: Choosing | None = None
    think: Think | None = None

    @property
    def own_keep(self) -> Keep:
        """What stays in view of a session that is not told otherwise."""
        form = systems.get(self.variant).keep if self.variant in variants.TURNS else ALL_STAYS
        return self.keep or parse_keep(form)

    @property
    def own_choose(self) -> Choosing:
        """How a session that is not told otherwise chooses its tokens."""
        form = systems.get(self.variant).choose if self.variant in variants.TURNS else Greedy()
        return self.choose or parse_choose(form)

    @property
    def carriers(self) -> int | None:
        """Steps, or chat turns, of whose patches a training sample has carriers, at most; None: none has one."""
        thinks = self.variant in variants.TURNS and systems.get(self.variant).thinks  # these are for sessions alone
        return self.own_keep.most if self.own_keep.carries and not thinks else None

    @property
    def changes_rows(self) -> bool:
        """Whether features, in training, drop rows of a sample or add some."""
        return self.see.decides_late or self.carriers is not None

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return seconds_of_step(self.fps)

    def as_dict(self) -> dict[str, str | float]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value if isinstance(value, float) else str(value)
            for name, value in values.items()
            if value is not None
        }

    @classmethod
    def resolve(
        cls,
        saved: dict | None,
        *,
        variant: str | None = None,
        schedule: str | Speak | None = None,
        pixel_budget: str | None = None,
        see: str | See | None = None,
        fps: float | None = None,
        other_fps: bool = False,
        seconds_per_turn: float | None = None,
        keep: str | Keep | None = None,
        choose: str | Choosing | None = None,
        think: str | Think | None = None,
        where: str = "the checkpoint",
    ) -> "Settings":
        """Settle what the caller asked for with what the checkpoint knows.

        A policy of SEE may be put on a checkpoint that was trained on all tokens, as those that need no training are
        meant to be. One that was trained on what another policy leaves keeps it.

        Args:
            saved: config.json's "swwatch" entry, None for a checkpoint without one (a plain Qwen2.5-VL). What an older
                one does not name is the default.
            other_fps: `fps` may be another than the checkpoint's.
            seconds_per_turn: of a chat system; in place of the checkpoint's.
            keep, choose, think: a session may be opened with others (`open_stream`, model.flags.SessionFlags).
            where: the checkpoint's path, for messages.
        Raises:
            UserError: no variant known, an unknown name, or a request that contradicts the checkpoint.
        """
        saved = {"fps": FPS} | saved if saved else {}
        overrides = {
            "variant": variant,
            "schedule": None if schedule is None else str(parse_schedule(schedule)),
            "pixel_budget": pixel_budget,
            "see": None if see is None else str(parse_see(see)),
            "fps": None if fps is None else check_fps(fps),
            "keep": None if keep is None else str(parse_keep(keep)),
            "choose": None if choose is None else str(parse_choose(choose)),
            "think": None if think is None else str(parse_think(think)),
        }
        _check_overrides(overrides, saved, other_fps, where)
        settled = {key: value if value is not None else saved.get(key) for key, value in overrides.items()}
        if settled["variant"] is None:
            names = ", ".join(variants.VARIANTS), ", ".join(variants.TURNS)
            raise UserError(
                f"{where} does not name a variant: give --variant, one of {names[0]}; or, for chat turns, --system "
                f"(in training --variant), one of {names[1]}"
            )
        variants.get(settled["variant"])
        own = settled["variant"] if settled["variant"] in BUDGETS else DEFAULT_BUDGET
        budget = settled["pixel_budget"] or own
        look_up(BUDGETS, budget, "pixel budget")
        see = parse_see(settled["see"] or DEFAULT_SEE)
        check_dropping(see, settled["variant"])
        schedule, fps = parse_schedule(settled["schedule"] or DEFAULT_SCHEDULE), check_fps(settled["fps"] or FPS)
        turn_s = seconds_per_turn or saved.get("seconds_per_turn")
        keep = settled["keep"] and parse_keep(settled["keep"])
        choose = settled["choose"] and parse_choose(settled["choose"])
        if keep is not None:
            keep.check(variants.get(settled["variant"]))
        think = settled["think"] and parse_think(settled["think"])
        if think:
            think.check(variants.get(settled["variant"]), keep)
        turn_s = None if turn_s is None else float(turn_s)
        return cls(settled["variant"], schedule, budget, see, fps, turn_s, keep, choose, think)


def _check_overrides(overrides: dict, saved: dict, other_fps: bool, where: str) -> None:
    """Raises UserError: what is asked for contradicts the checkpoint."""
    for key, value in overrides.items():
        put_on = key == "see" and not parse_see(saved.get(key, DEFAULT_SEE)).drops
        is_free = put_on or key == "fps" and other_fps
        if value is not None and key in saved and value != saved[key] and not is_free:
            raise UserError(
                f"{where} was trained with {key} {saved[key]!r}, but {value!r} was asked for: "
                f"leave {key} out, or choose another checkpoint{OTHER if key == 'fps' else ''}"
            )


def check_dropping(see: See, variant: str | None) -> None:
    """Raises UserError: it drops tokens, and the variant speaks in chat turns, which see all."""
    if see.drops and variant in variants.TURNS:
        raise UserError(f"see {see}: {variant} sees all tokens of its turns, leave see out")


def check_see(see: See, path: str | Path, variant: str | None = None) -> None:
    """Raises UserError: SEE is not for a variant, or the vision tower, of a checkpoint, which is not loaded."""
    check_dropping(see, variant)
    if see.reuses:
        family = FAMILIES.get(saved_config(path).get("model_type"))  # that it is none is told when it is loaded
        see.check_tower(family is not None and family.windows, str(path))


def fps_of(saved: dict, fps: float | None = None, other_fps: bool = False, where: str = "the checkpoint") -> float:
    """Frames a second at which a checkpoint will watch, before it is loaded; args and errors of Settings.resolve."""
    variant = saved.get("variant", "origin")  # whatever it will be
    return Settings.resolve(saved, variant=variant, fps=fps, other_fps=other_fps, where=where).fps


def check_fps(fps: float) -> float:
    """Raises UserError: no frame rate."""
    if not isinstance(fps, int | float) or not 0 < fps <= MOST_FPS:
        raise UserError(f"fps {fps}: frames a second are above 0 and at most {MOST_FPS:g}, such as 0.5, 1, 2, 4 or 8")
    return float(fps)


def base_of(folder: str | Path) -> str:
    """The model that the adapter in a folder was trained on: a path or a hub id.

    Raises:
        UserError: the adapter does not say, or its configuration cannot be read.
    """
    path = Path(folder) / ADAPTER
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read the adapter's {path}: {error!r}") from error
    if not base:
        raise UserError(f"{path} names no base_model_name_or_path: write the base model's folder or hub id there")
    return base
