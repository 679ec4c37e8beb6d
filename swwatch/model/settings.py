"""What a checkpoint must know about itself: variant, policies, pixel budget. Kept under "swwatch" in config.json."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from swwatch.data.budget import BUDGETS
from swwatch.errors import UserError
from swwatch.model.checks import ADAPTER
from swwatch.policies.see import ALL, See, parse_see
from swwatch.policies.speak import Speak, parse_schedule
from swwatch.rules import variants

DEFAULT_SCHEDULE, DEFAULT_SEE, DEFAULT_BUDGET = "wait-k:3", "all", "declared"


@dataclass(frozen=True)
class Settings:
    """How a model was, or is to be, trained and used.

    Attributes:
        schedule: of the table SPEAK; see: of the table SEE.
    """

    variant: str
    schedule: Speak
    pixel_budget: str
    see: See = ALL

    def as_dict(self) -> dict[str, str]:
        return {field.name: str(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def resolve(
        cls,
        saved: dict | None,
        *,
        variant: str | None = None,
        schedule: str | Speak | None = None,
        pixel_budget: str | None = None,
        see: str | See | None = None,
        where: str = "the checkpoint",
    ) -> "Settings":
        """Settle what the caller asked for with what the checkpoint knows.

        A policy of SEE may be put on a checkpoint that was trained on all tokens, as those that need no training are
        meant to be. One that was trained on what another policy leaves keeps it.

        Args:
            saved: config.json's "swwatch" entry, None for a checkpoint without one (a plain Qwen2.5-VL). What an older
                one does not name is the default.
            where: the checkpoint's path, for messages.
        Raises:
            UserError: no variant known, an unknown name, or a request that contradicts the checkpoint.
        """
        saved = saved or {}
        asked = {
            "variant": variant,
            "schedule": None if schedule is None else str(parse_schedule(schedule)),
            "pixel_budget": pixel_budget,
            "see": None if see is None else str(parse_see(see)),
        }
        for key, value in asked.items():
            put_on = key == "see" and not parse_see(saved.get(key, DEFAULT_SEE)).drops
            if value is not None and key in saved and value != saved[key] and not put_on:
                raise UserError(
                    f"{where} was trained with {key} {saved[key]!r}, but {value!r} was asked for: "
                    f"leave {key} out, or choose another checkpoint"
                )
        settled = {key: value if value is not None else saved.get(key) for key, value in asked.items()}
        if settled["variant"] is None:
            names = ", ".join(variants.VARIANTS), ", ".join(variants.TURNS)
            raise UserError(
                f"{where} does not name a variant: give --variant, one of {names[0]}; or, for chat turns, --system "
                f"(in training --variant), one of {names[1]}"
            )
        variants.get(settled["variant"])
        own = settled["variant"] if settled["variant"] in BUDGETS else DEFAULT_BUDGET
        budget = settled["pixel_budget"] or own
        if budget not in BUDGETS:
            raise UserError(f"no pixel budget {budget!r}: choose one of {', '.join(BUDGETS)}")
        see = parse_see(settled["see"] or DEFAULT_SEE)
        if see.drops and settled["variant"] in variants.TURNS:
            raise UserError(f"see {see}: {settled['variant']} sees all tokens of its turns, leave see out")
        return cls(settled["variant"], parse_schedule(settled["schedule"] or DEFAULT_SCHEDULE), budget, see)


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
