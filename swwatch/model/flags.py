"""The flags of every program that runs a model: which one, as what, and where. Nothing here imports torch.

@dataclass(frozen=True, kw_only=True)
class StreamSettings(ModelFlags):
    video: Path = setting(REQUIRED, "a video file")

settings = read_settings(StreamSettings, argv, program="swwatch stream", about=__doc__)
settings.check_model(settings.model)  # mistakes are told before torch is imported
loaded = settings.load(settings.model)
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from swwatch.config import REQUIRED, look_up, setting
from swwatch.data.budget import BUDGETS
from swwatch.errors import UserError
from swwatch.model.checks import (
    check_checkpoint,
    check_device,
    check_dtype,
    check_pack,
    check_quantize,
    saved_settings,
)
from swwatch.model.settings import DEFAULT_SCHEDULE, Settings, check_fps, check_see, fps_of
from swwatch.policies.choose import CHOOSE, parse_choose
from swwatch.policies.keep import KEEP, Keep, parse_keep
from swwatch.policies.see import ALL, SEE, parse_see
from swwatch.policies.speak import FORMS, check_schedule, parse_schedule
from swwatch.policies.table import Policy, forms
from swwatch.policies.think import THINK, parse_think
from swwatch.rules import variants
from swwatch.rules.schedule import FPS
from swwatch.rules.systems import SYSTEMS

if TYPE_CHECKING:
    from swwatch.model.loading import Loaded


@dataclass(frozen=True, kw_only=True)
class DeviceFlags:
    """Where a model runs, for programs that settle by themselves what it is loaded as."""

    heading: ClassVar[str] = "model"

    device: str | None = setting(None, "cpu or cuda (default: cuda where there is one)")
    dtype: str | None = setting(
        None, "auto (the fastest of the device), bf16, fp32 or fp16 (default: bfloat16 on cuda, else float32)"
    )
    attention: str | None = setting(None, "sdpa, eager or flash_attention_2 (default: the fastest that is exact)")
    base: str | None = setting(None, "an adapter's base model, where it is not where the adapter says")
    fps: float | None = setting(None, "frames a second that are watched (default: the checkpoint's own, else 2)")
    other_fps: bool = setting(False, "--fps may be another than the checkpoint was trained at")

    def __post_init__(self):
        check_device(self.device)
        check_dtype(self.dtype)
        if self.fps is not None:
            check_fps(self.fps)
        elif self.other_fps:
            raise UserError("--other-fps goes with --fps: give both")

    def check_model(self, path: str | Path) -> None:
        """See `check_checkpoint`."""
        check_checkpoint(path, self.base)

    def settled_fps(self, path: str | Path) -> float:
        """Frames a second at which the model there will watch, known before it is loaded.

        Raises:
            UserError: its checkpoint cannot be read, or contradicts --fps.
        """
        return fps_of(saved_settings(path), self.fps, self.other_fps, str(path))

    def check_turns(self, path: str | Path, variant: str | None) -> None:
        """Refuse frames a second at which the turns of a chat system would be no whole patches.

        Args:
            path: a folder, or a hub id, which is asked for its own only where it must be.
            variant: None: the checkpoint's own.
        """
        asks = Path(path).is_dir() or variant is None and self.fps is not None
        saved = saved_settings(path) if asks else {}
        if (name := variant or saved.get("variant")) in SYSTEMS:
            SYSTEMS[name].patches_of_turns(self.fps or saved.get("fps", FPS), saved.get("seconds_per_turn"))

    def load(self, path: str | Path, **more) -> "Loaded":
        """`model.loading.load` with these flags. Bars of weights and downloads are shown where stderr is a terminal.

        Args:
            more: further arguments of it, which win over the flags.
        """
        from transformers.utils.logging import disable_progress_bar

        from swwatch.model.loading import load

        if not sys.stderr.isatty():
            disable_progress_bar()
        how = {"device": self.device, "dtype": self.dtype, "attention": self.attention, "base": self.base}
        how |= {"fps": self.fps, "other_fps": self.other_fps}
        return load(path, **how | more)


@dataclass(frozen=True, kw_only=True)
class LoadFlags(DeviceFlags):
    """The same with what a model is loaded as. For programs that name their models themselves; see ModelFlags."""

    heading: ClassVar[str] = "model"

    variant: str | None = setting(None, "needed where the checkpoint does not name one")
    schedule: str | None = setting(
        None, f"how many words are said when: {FORMS} (default: the checkpoint's own)", also="speak"
    )
    see: str | None = setting(
        None, f"which tokens of the video are seen: {forms(SEE)} (default: the checkpoint's own, else all)"
    )
    pixel_budget: str | None = setting(
        None, "declared, release or qwen3_vl (default: the checkpoint's own, else declared)"
    )

    def __post_init__(self):
        super().__post_init__()
        if self.variant is not None:
            variants.get(self.variant)
        if self.schedule is not None:
            parse_schedule(self.schedule)
        if self.see is not None:
            parse_see(self.see)
        if self.pixel_budget is not None:
            look_up(BUDGETS, self.pixel_budget, "pixel budget")

    def check_model(self, path: str | Path) -> None:
        """As above; also refuse frames a second or a schedule by which the model's variant cannot speak, and a policy
        of SEE for another vision tower."""
        super().check_model(path)
        self.check_turns(path, self.variant)
        if self.see is not None:
            check_see(parse_see(self.see), path, self.variant or saved_settings(path).get("variant"))
        if self.schedule is not None:
            saved = saved_settings(path)
            name = self.variant or saved.get("variant")
            if name is not None:
                schedule = check_schedule(self.schedule, name)
                schedule.check_trained(saved.get("schedule", DEFAULT_SCHEDULE), str(path))

    def load(self, path: str | Path, **more) -> "Loaded":
        """As above. A schedule other than the checkpoint's own is no mistake but the paper's disturbance test; that a
        SEE policy is put on one that was trained on all tokens is told."""
        saved = saved_settings(path) if self.see is not None else {}
        if saved and not parse_see(saved.get("see", "all")).drops and parse_see(self.see) != ALL:
            print(f"see {self.see} is put on {path}, which was trained on all tokens", file=sys.stderr)
        names = ("variant", "pixel_budget", "see")
        loaded = super().load(path, **{name: getattr(self, name) for name in names} | more)
        if self.schedule is None:
            return loaded
        schedule = check_schedule(self.schedule, loaded.settings.variant)
        return replace(loaded, settings=replace(loaded.settings, schedule=schedule))


@dataclass(frozen=True, kw_only=True)
class SessionFlags:
    """What sessions keep, how they choose and what their weights are, for programs that open them:
    `class Settings(SessionFlags, ModelFlags)`.

    What is left out is the checkpoint's own, else the form's. `load` puts what is given on the loaded settings, and
    engine.door.open_stream reads it there.
    """

    heading: ClassVar[str] = "session"

    keep: str | None = setting(
        None, f"what stays of a stream without end: {forms(KEEP)} (default: the checkpoint's own)"
    )
    choose: str | None = setting(
        None, f"how the next token is chosen: {forms(CHOOSE)} (default: the checkpoint's own)"
    )
    think: str | None = setting(
        None,
        f"what is thought beside the words, by group, gap and overlap: {forms(THINK)} (default: its own, else off)",
    )

    quantize: str | None = setting(
        None, "the LLM's weights as int8, on cuda also int4 or fp8 (torchao): smaller, faster, less exact"
    )

    pack: str = setting(
        "off", "auto: the LLM's weights as this CPU reads them fastest, where that gains; more memory, same words"
    )

    def __post_init__(self):
        super().__post_init__()
        check_quantize(self.quantize, self.device)
        check_pack(self.pack, self.device, self.quantize)
        if self.keep is not None:
            parse_keep(self.keep)
        if self.choose is not None:
            parse_choose(self.choose)
        if self.think is not None:
            parse_think(self.think)

    def check_choose(self, *names: str) -> None:
        """Refuse flags that say what --choose says, too.

        Args:
            names: of settings that are None, or False, where they were not given.
        """
        self._check_one("choose", names, "how tokens are chosen")

    def check_keep(self, *names: str) -> None:
        """Refuse flags that say what --keep says, too. Args: as of `check_choose`."""
        self._check_one("keep", names, "what stays")

    def _check_one(self, table: str, names: Sequence[str], about: str) -> None:
        policy = getattr(self, table)
        given = [name for name in names if getattr(self, name) is not None and getattr(self, name) is not False]
        if policy is not None and given:
            flag = f"--{given[0].replace('_', '-')}"
            raise UserError(f"--{table} {policy} and {flag} both say {about}: give one of them")

    def session_policies(self) -> dict[str, Policy]:
        """Those that were given."""
        policies = {"keep": self.keep and parse_keep(self.keep), "choose": self.choose and parse_choose(self.choose)}
        policies["think"] = self.think and parse_think(self.think)
        return {name: policy for name, policy in policies.items() if policy is not None}

    def settled_keep(self, path: str | Path | None) -> Keep | None:
        """What sessions of a checkpoint will keep, known before it is loaded; None: as their form does."""
        keep = self.session_policies().get("keep")
        if keep is None and path is not None:
            own = saved_settings(path).get("keep")
            keep = own and parse_keep(own)
        return keep

    def check_model(self, path: str | Path) -> None:
        """As of the model's flags; also refuse what its variant, or this attention, cannot keep so."""
        super().check_model(path)
        if self.attention is not None and (keep := self.settled_keep(path)) is not None:
            keep.attention(self.attention)
        saved = saved_settings(path) if self.session_policies() else {}
        name = vars(self).get("variant") or saved.get("variant")  # programs that name their models have no flag for it
        if name is not None:
            self.check_policies({**saved, "variant": name})

    def check_policies(self, saved: Mapping[str, Any]) -> None:
        """What is asked for, or else a checkpoint's own, against its variant and one another.

        Raises:
            UserError: it cannot be kept so, see so, speak so or think so.
        """
        policies, variant = self.session_policies(), variants.get(saved["variant"])
        if "keep" in policies:
            policies["keep"].check(variant)
        keep, think = (policies.get(name) or saved.get(name) for name in ("keep", "think"))
        see, schedule = (vars(self).get(name) or saved.get(name) for name in ("see", "schedule"))
        if keep and see:
            parse_keep(keep).check_see(parse_see(see))
        if keep and schedule:
            parse_schedule(schedule).check_keep(parse_keep(keep))
        if think:
            parse_think(think).check(variant, keep and parse_keep(keep))

    def put_on(self, settings: Settings, where: str | Path = "the checkpoint") -> Settings:
        """A checkpoint's settings with the policies that were given. That it was trained with others is told.

        Raises:
            UserError: its variant cannot be kept so.
        """
        policies = self.session_policies()
        self.check_policies(vars(settings))
        for name, policy in policies.items():
            own = getattr(settings, name)
            if own not in (None, policy):
                print(f"{name} {policy} is put on {where}, which was trained with {name} {own}", file=sys.stderr)
        return replace(settings, **policies)

    def load(self, path: str | Path, **more) -> "Loaded":
        """As of the model's flags, with `put_on`, and an attention by which can be kept what is."""
        how, keep = {"quantize": self.quantize, "pack": self.pack}, self.settled_keep(path)
        if keep is not None:
            how["attention"] = keep.attention(self.attention)
        loaded = super().load(path, **how | more)
        return replace(loaded, settings=self.put_on(loaded.settings, path))


@dataclass(frozen=True, kw_only=True)
class ModelFlags(LoadFlags):
    """The same with the model itself."""

    heading: ClassVar[str] = "model"

    model: str = setting(REQUIRED, "checkpoint folder or hub id")
