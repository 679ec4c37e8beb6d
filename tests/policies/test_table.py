"""Policies as text: names, options, defaults, and what is refused with which advice."""

from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from swwatch.errors import UserError
from swwatch.policies.table import Policy, forms, option, parse, table


@dataclass(frozen=True)
class Most(Policy):
    table: ClassVar[str] = "taste"


@dataclass(frozen=True)
class Plain(Most):
    name: ClassVar[str] = "plain"


@dataclass(frozen=True)
class Mixed(Most):
    name: ClassVar[str] = "mixed"
    share: float = option(0.5, least=0, most=1)
    count: int = option(4, least=1)
    seconds: float | None = option(None, least=0)
    way: str = option("near")
    hidden: str = field(default="", repr=False)


TASTES = table(Plain, Mixed)


@pytest.mark.parametrize(
    "policy, text",
    [
        (Plain(), "plain"),
        (Mixed(), "mixed:0.5:count=4:seconds=none:way=near"),
        (Mixed(1.0, 2, 240.0, "far"), "mixed:1:count=2:seconds=240:way=far"),
        (Mixed(0.1 + 0.2), "mixed:0.30000000000000004:count=4:seconds=none:way=near"),
    ],
)
def test_a_policy_reads_back_from_its_text(policy, text):
    assert str(policy) == text and parse(TASTES, text) == policy
    assert parse(TASTES, policy) is policy


def test_options_may_be_left_out_named_and_in_any_order():
    assert parse(TASTES, " mixed ") == Mixed()
    assert parse(TASTES, "mixed:count=2:share=0.25") == Mixed(0.25, 2)
    assert parse(TASTES, "mixed:seconds=3") == Mixed(seconds=3.0)


def test_the_forms_are_the_rows_with_their_defaults():
    assert forms(TASTES) == "plain or mixed:0.5:count=4:seconds=none:way=near"


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "there is no ''"),
        ("planet", "there is no 'planet'"),
        ("plain:3", "plain has no option '3', it has no options"),
        ("mixed:0.5:3", "mixed has no option '3', its options are share, count, seconds, way"),
        ("mixed:hidden=x", "no option 'hidden'"),
        ("mixed:0.5:share=1", "share is given twice"),
        ("mixed:1.5", "share must be at least 0 and at most 1, not 1.5"),
        ("mixed:nan", "share must be at least 0 and at most 1, not nan"),
        ("mixed:count=0", "count must be at least 1, not 0"),
        ("mixed:count=2.5", "count must be a whole number, not '2.5'"),
        ("mixed:seconds=", "seconds must be a number, not ''"),
    ],
)
def test_what_is_no_policy_is_refused_and_the_forms_are_told(text, why):
    with pytest.raises(UserError) as refused:
        parse(TASTES, text)
    assert why in str(refused.value) and str(refused.value).startswith(f"taste {text!r} is not understood")
    assert str(refused.value).endswith(f"Write {forms(TASTES)}")


def test_a_policy_made_by_hand_obeys_the_same_ranges():
    with pytest.raises(UserError, match="count must be at least 1"):
        Mixed(count=0)
