"""The paper's claims, and what a study says to each: reproduced, not reproduced, or undecided at this scale.

The rules were fixed before the results. A comparison is made for each training seed on the same clips, with a 95 %
interval of the difference (paired bootstrap over clips). It speaks FOR a claim when the whole interval does, AGAINST
when the whole interval lies on the other side. A claim is reproduced when every comparison speaks for it with every
seed, not reproduced when one comparison speaks against it with every seed, and undecided otherwise.

One rule was added when the first results were seen: a comparison of what is told says nothing where one of the two
had not learned to see by the end of its training, for it would compare how fast variants learn. Without this rule the
claim about offline variants would have been called not reproduced by a study in which they told directions at chance.
"""

from collections.abc import Callable
from dataclasses import dataclass

from swwatch.rules.variants import VARIANTS, Speaks
from swwatch.study.outcome import Outcome

MARGIN = 0.05  # a share that changes by less than this is kept
LEARNED = 0.5  # least share of directions told right on the trained schedule; guessing gives 0.25
REPRODUCED, NOT_REPRODUCED, UNDECIDED = "reproduced", "not reproduced", "undecided at this scale"


@dataclass(frozen=True)
class Evidence:
    """One comparison; for each seed the difference, its interval, what it says of the claim (1 for, -1 against).

    unlearned: seeds of which it says nothing (sign 0) because one of the two variants had not learned to see.
    """

    text: str
    differences: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    signs: tuple[int, ...]
    unlearned: tuple[bool, ...]


@dataclass(frozen=True)
class Claim:
    text: str
    rule: str
    evidence: tuple[Evidence, ...]
    verdicts: tuple[str, str, str] = (REPRODUCED, NOT_REPRODUCED, UNDECIDED)

    @property
    def verdict(self) -> str:
        signs = [sign for one in self.evidence for sign in one.signs]
        if signs and all(sign > 0 for sign in signs):
            return self.verdicts[0]
        if any(all(sign < 0 for sign in one.signs) for one in self.evidence):
            return self.verdicts[1]
        return self.verdicts[2]


def more(low: float, high: float) -> int:
    return (low > 0) - (high < 0)


def less(low: float, high: float) -> int:
    return -more(low, high)


def unchanged(low: float, high: float) -> int:
    if -MARGIN < low and high < MARGIN:
        return 1
    return -1 if high <= -MARGIN or low >= MARGIN else 0


def claims(outcome: Outcome) -> list[Claim]:
    """The claims that a plan's variants allow to be judged."""
    here = outcome.plan.variants
    offline = [v for v in here if VARIANTS[v].speaks is Speaks.OFFLINE]
    streaming = [v for v in here if v not in offline]
    parallel = [v for v in streaming if VARIANTS[v].speaks is Speaks.PARALLEL]
    alternating = [v for v in streaming if v not in parallel]
    disturbed = [name for name in outcome.plan.schedules(streaming[0]) if name != "fixed"] if streaming else []

    def changes(variants: list[str], share: str, rule: Callable) -> tuple[Evidence, ...]:
        return tuple(
            _evidence(outcome, (v, "fixed"), (v, name), share, rule, f"{v}: {name} minus fixed")
            for v in variants
            for name in disturbed
        )

    def versus(pairs: list[tuple[str, str]], schedules: list[str], share: str, rule: Callable) -> tuple[Evidence, ...]:
        return tuple(
            _evidence(outcome, (b, name), (a, name), share, rule, f"{a} minus {b}, {name}")
            for name in schedules
            for a, b in pairs
        )

    found = [
        Claim(
            "Speaking after the whole video (origin, batch) describes best (the paper's 3B table, CIDEr and BLEURT).",
            "`right` of each offline variant exceeds that of each streaming one on the trained schedule",
            versus([(o, s) for o in offline for s in streaming], ["fixed"], "right", more),
        ),
        Claim(
            "Interleave loses fluency when the schedule is disturbed.",
            "`parses` falls from the trained schedule to each disturbed one",
            changes(alternating, "parses", less),
        ),
        Claim(
            f"Decoupled positions ({', '.join(parallel)}) keep their fluency.",
            f"`parses` changes by less than {100 * MARGIN:.0f} points from the trained schedule to each disturbed one",
            changes(parallel, "parses", unchanged),
        ),
        Claim(
            f"Under disturbance they ({', '.join(parallel)}) are more fluent than interleave.",
            "`parses` of each exceeds interleave's under each disturbed schedule",
            versus([(p, a) for p in parallel for a in alternating], disturbed, "parses", more),
        ),
        Claim(
            "Group is the best of the three decoupled variants (the paper's BLEURT, 3B).",
            "`right` of group exceeds that of overlap and gap under every schedule",
            versus([("group", p) for p in parallel if p != "group"], ["fixed", *disturbed], "right", more)
            if "group" in parallel
            else (),
        ),
    ]
    return [claim for claim in found if claim.evidence]


def learned(outcome: Outcome, variant: str, seed: int) -> bool:
    """Whether training got as far as seeing which way things move."""
    return outcome.cells[variant, seed, "fixed"].share("told_direction") >= LEARNED


def _evidence(outcome: Outcome, a: tuple, b: tuple, share: str, rule: Callable, text: str) -> Evidence:
    """Of b minus a."""
    found = outcome.differences(a, b, share)
    intervals = tuple((one["ci95"][0], one["ci95"][1]) for one in found)
    blind = tuple(
        share == "right" and not all(learned(outcome, variant, seed) for variant in (a[0], b[0]))
        for seed in outcome.plan.seeds
    )
    return Evidence(
        f"`{share}`, {text}",
        tuple(one["difference"] for one in found),
        intervals,
        tuple(0 if unlearned else rule(low, high) for unlearned, (low, high) in zip(blind, intervals, strict=True)),
        blind,
    )
