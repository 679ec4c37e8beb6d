"""SPEAK: how many tokens now. One table; its rows are known as schedules, and written as text in configs, flags and
checkpoints. Those of schedules.py know a plan; each of the others decides while it streams, and has a file of its own.
"""

from swwatch.errors import UserError
from swwatch.policies.speak.change import Change
from swwatch.policies.speak.gate import Gate
from swwatch.policies.speak.head import Head
from swwatch.policies.speak.pace import Pace
from swwatch.policies.speak.policy import Speak
from swwatch.policies.speak.schedules import Burst, RandomK, Stall, WaitK
from swwatch.policies.speak.sved import Sved
from swwatch.policies.table import forms, parse, table
from swwatch.rules import variants

__all__ = ["FORMS", "SPEAK", "Burst", "RandomK", "Speak", "Stall", "WaitK", "check_schedule", "parse_schedule"]

SPEAK = table(WaitK, RandomK, Burst, Stall, Change, Pace, Sved, Gate, Head)
FORMS = forms(SPEAK)


def parse_schedule(text: str | Speak) -> Speak:
    """Inverse of `str(schedule)`; options that are left out take their defaults.

    Raises:
        UserError: not one of the forms, or a number out of its range.
    """
    return parse(SPEAK, text)


def check_schedule(text: str | Speak, variant: str) -> Speak:
    """The schedule, where a variant can speak by it.

    Raises:
        UserError: as `parse_schedule`; or the variant cannot.
    """
    if variant in variants.TURNS:
        raise UserError(f"{variant!r} speaks once in a turn, by no schedule: leave {str(text)!r} out")
    schedule = parse_schedule(text)
    schedule.check(variants.get(variant))
    return schedule
