"""What the comparison of policies consists of: rows of the tables SEE, KEEP and SPEAK, each with one example, on the
same models and clips.

A row that is added to a table comes in by itself, with its defaults or with an example in EXAMPLES, whose numbers suit
clips of a minute. What a form of session cannot honour is told in its own words.
"""

from dataclasses import dataclass
from pathlib import Path

from swwatch.policies.keep import KEEP
from swwatch.policies.see import SEE
from swwatch.policies.speak import SPEAK
from swwatch.rules.variants import Speaks

TABLES = {"see": SEE, "keep": KEEP, "schedule": SPEAK}
PLAIN = {"see": "all", "keep": "all", "schedule": "wait-k:3"}  # what the others are compared with
CONTROLS = tuple(f"recent:{seconds}" for seconds in (2, 4, 8, 16))  # of KEEP: in every plot
EXAMPLES = {
    "all": "all",
    "dtd": "dtd:0.9",
    "window": "window:8",
    "sink_window": "sink_window:8:turns_s=8",
    "flush": "flush:16",
    "restart": "restart:8",
    "recompute": "recompute:8:turns_s=8",
    "key_norm": "key_norm:8",
    "rekv": "rekv:8:vision_s=8",
    "peak_end": "peak_end:8",
    "livevlm": "livevlm:64:vision_s=8",
    "carrier": "carrier:32",
    "vstream": "vstream:24:detail=12",
}


@dataclass(frozen=True)
class Test:
    """What is done with a policy.

    Attributes:
        world: of the clips; seconds: that are watched of each, at most.
        variant: of the model; model: its name, where it is another than that of the variant. Of SPEAK each policy is
            tried on the variant's, or on its own.
        tables: whose policies are put on.
        asks: questions are asked in mid-stream; else the model narrates.
        shares: that are told, see study.compared; by default those of what is done.
    """

    name: str
    world: str
    variant: str
    tables: tuple[str, ...]
    seconds: int
    asks: bool = False
    model: str = ""
    shares: tuple[str, ...] = ()


Row = tuple[str, str, str]  # test, table, policy
TESTS = {
    test.name: test
    for test in (
        Test("told, still", "still", "group", ("see", "schedule"), 60, model="gate"),
        Test("told, minutes", "ten_minutes", "group", ("see", "keep", "schedule"), 600),
        Test("asked, still", "still", "streamingvlm", ("keep",), 60, asks=True),
        Test("asked, count", "count", "streamingvlm", ("keep",), 60, asks=True),
    )
}


@dataclass(frozen=True)
class PolicyPlan:
    """One size of the comparison. Results of a smaller one are used by a larger one with the same steps.

    Attributes:
        steps: optimizer steps of each fine-tuning from the BASE.
        clips: of each test; seconds: of each clip, at most.
    """

    name: str
    seeds: tuple[int, ...]
    steps: int
    clips: int
    seconds: int

    @property
    def tests(self) -> dict[str, Test]:
        return TESTS

    def rows(self) -> list[Row]:
        """What is compared in each test, the plain first."""
        return rows()

    def cells(self) -> list[tuple[int, str, str, str]]:
        """(seed, test, table, policy) of everything; seeds in turn."""
        return [(seed, *row) for seed in self.seeds for row in self.rows()]


PLANS = {
    "quick": PolicyPlan("quick", (0,), steps=200, clips=3, seconds=60),
    "full": PolicyPlan("full", (0, 1, 2), steps=200, clips=6, seconds=60),
}


def rows() -> list[Row]:
    """(test, table, policy): of each table what is compared with first."""
    return [
        (test.name, table, policy)
        for test in TESTS.values()
        for table in test.tables
        for policy in examples(table)
        if fits(test, table, policy)
    ]


def examples(table: str) -> list[str]:
    """The policies of a table, as text, but for those that only chat turns or only narrations know."""
    found = [PLAIN[table], *(EXAMPLES.get(name, str(kind())) for name, kind in TABLES[table].items())]
    return list(dict.fromkeys([*found, *(CONTROLS if table == "keep" else ())]))


def fits(test: Test, table: str, policy: str) -> bool:
    """Whether a policy is for the form of session of a test: what is not is no row of its table. Those of SEE that run
    the tower's blocks are for towers without windows, which the study's models have."""
    kind = TABLES[table][policy.split(":")[0]]
    form = Speaks.TURNS if test.asks else Speaks.PARALLEL
    return not kind.reuses if table == "see" else form in kind.for_whom


def cell_path(folder: Path, plan: PolicyPlan, seed: int, test: str, table: str, policy: str) -> Path:
    """Of its file: results depend on how many clips and seconds there are."""
    name = "-".join([test.replace(", ", "-").replace(" ", "_"), table, policy.replace(":", "_")])
    return folder / "cells" / f"{plan.clips}-{plan.seconds}" / f"{seed}-{name}.json"
