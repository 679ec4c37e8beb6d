"""What a comparison of policies found: a plot of quality against cost, and what comes of public claims."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from swwatch.paths import make_folder
from swwatch.pictures.plots import panels, save
from swwatch.policies.speak import SPEAK
from swwatch.policies.speak.policy import Deciding
from swwatch.study import compared
from swwatch.study.claims import NOT_REPRODUCED, REPRODUCED, UNDECIDED, Claim, less, more, unchanged
from swwatch.study.compared import Found, read_found, versus
from swwatch.study.page import evidence_table
from swwatch.study.policy_plan import CONTROLS, PLAIN, TESTS, PolicyPlan

TABLE_COLORS = {"see": "#3b6ea5", "keep": "#3f8f5f", "schedule": "#8a5fa8"}
NO_MEMORY = ("all", "window", "sink_window", "flush", "restart", "recompute", "recent")


def write_page(plan: PolicyPlan, folder: Path, out: Path) -> Path:
    """Write policies_study.md, its picture and policies_study.json; returns the page."""
    found = read_found(plan, folder)
    make_folder(out)
    picture = draw(found, out / "policies_study.png")
    seeds = ", ".join(map(str, plan.seeds))
    parts = [
        f"# Policies compared ({plan.name})",
        f"Models were fine-tuned from one BASE, {plan.steps} steps each, seeds {seeds}: one narrates (`group`, clips "
        "of up to 30 s), one answers in chat turns (`streamingvlm`, streams of up to 24 s). A policy is put on them "
        "without training for it, but for `gate` and `head`, which have narrators of their own (still clips, captions "
        "at their times). Still clips are narrated by the one of `gate`, which is silent while nothing happens, when "
        f"SEE is compared. {plan.clips} clips a test, at most {plan.seconds} s of each. In brackets 95 % "
        "intervals, resampled over clips and seeds. Times are CPU time of a step, decoding included, at the "
        "beginning and at the end of a clip. What holds for 1.6 M parameters need not hold for 7 B.",
        f"![quality against cost]({picture.name})",
        "## Claims",
        "Of each policy: a claim is reproduced when every comparison speaks for it with every seed, not reproduced "
        "when one speaks against it with every seed, and undecided otherwise.",
        *[public.page(found) for public in PUBLIC],
    ]
    return compared.write_page(found, out, "policies", parts)


def draw(found: Found, path: Path) -> Path:
    """One panel a test: its quality against CPU time of a late step, by table. The recent windows are joined by
    a line in every panel that has them; elsewhere what is plain stands for them."""
    figure, axes = panels(-(-len(TESTS) // 2), 2, (13, 9.5))
    for axis, test in zip(axes, TESTS, strict=True):
        share = "about the past, %" if TESTS[test].asks else "right, %"
        able = [row for row in found.cells if row[0] == test and found.refused(row) is None]
        points = {row: (found.cost(row, "late, ms"), 100 * found.statistic(row, share).value) for row in able}
        for row, point in points.items():
            if row[2] not in CONTROLS:
                axis.plot(*point, "o", color="black" if row[2] == PLAIN[row[1]] else TABLE_COLORS[row[1]])
                axis.annotate(row[2].split(":")[0], point, fontsize=8, xytext=(4, 3), textcoords="offset points")
        for table in TESTS[test].tables:
            axis.plot([], [], "o", color=TABLE_COLORS[table], label=f"{table} (black: {PLAIN[table]})")
        window = sorted(points[test, "keep", policy] for policy in CONTROLS if (test, "keep", policy) in points)
        if window:
            axis.plot(*zip(*window, strict=True), "s--", color="#d9822b", label=f"{CONTROLS[0]} to {CONTROLS[-1]}")
        axis.legend(frameon=False)
        axis.set(title=test, xlabel="CPU time of a late step, ms", ylabel=share)
    return save(figure, path)


@dataclass(frozen=True)
class Public:
    """What is said in public of policies of some kind, and how it is tested here, of each of them.

    Attributes:
        measured: in words; tests, table: where; other: the policy of the same table that each is compared with.
        share, rule: a comparison speaks for the claim where `rule` of the interval of the share's difference is 1.
        must: the share of which half must be reached by the policy itself, or the comparison says nothing; where none
            is named, half of `share` by the plain policy of the table.
    """

    text: str
    measured: str
    tests: tuple[str, ...]
    table: str
    other: str
    share: str
    rule: Callable[[float, float], int]
    must: str = ""

    def policies(self, found: Found) -> list[str]:
        """Those that it is said of."""
        named = dict.fromkeys(policy for _, table, policy in found.cells if table == self.table)
        if self.table == "schedule":
            return [policy for policy in named if issubclass(SPEAK[policy.split(":")[0]], Deciding)]
        return [policy for policy in named if policy not in CONTROLS and policy.split(":")[0] not in NO_MEMORY]

    def claims(self, found: Found) -> dict[str, Claim]:
        """Policy -> the claim about it; without those that were refused everywhere."""
        judged = {}
        for policy in self.policies(found):
            rows = [((test, self.table, policy), (test, self.table, self.other)) for test in self.tests]
            plain = [((test, self.table, PLAIN[self.table]), self.share) for test in self.tests]
            musts = [(a, self.must) for a, _ in rows] if self.must else plain
            pairs = zip(rows, musts, strict=True)
            evidence = [one for (a, b), must in pairs for one in versus(found, a, b, self.share, self.rule, must)]
            if evidence:
                judged[policy] = Claim(self.text, self.measured, tuple(evidence))
        return judged

    def page(self, found: Found) -> str:
        """Its verdicts and what they stand on."""
        judged = self.claims(found)
        verdicts = {verdict: [] for verdict in (REPRODUCED, NOT_REPRODUCED, UNDECIDED)}
        for policy, claim in judged.items():
            verdicts[claim.verdict].append(f"`{policy.split(':')[0]}`")
        text = "; ".join(f"{verdict}: {', '.join(some)}" for verdict, some in verdicts.items() if some)
        table = evidence_table(one for claim in judged.values() for one in claim.evidence)
        return f"### {self.text}\nMeasured: {self.measured}. **{text[:1].upper()}{text[1:]}.**\n\n{table}"


def not_more(low: float, high: float) -> int:
    """For where a difference may be nothing or less."""
    return (high <= 0.05) - (low > 0)


PUBLIC = (
    Public(
        "Most video tokens can be dropped and narration stays as good (TimeChat-Online, STC, FlashVID, CurveStream)",
        "events told right change by less than 5 points from `all`",
        ("told, still", "told, minutes"),
        "see",
        "all",
        "right, %",
        unchanged,
    ),
    Public(
        "No memory beats the newest few seconds where the present is asked about (SimpleStream)",
        "answers about now do not exceed those of recent:4",
        ("asked, still", "asked, count"),
        "keep",
        "recent:4",
        "about now, %",
        not_more,
    ),
    Public(
        "A memory knows more of the past than the newest few seconds (ReKV, QuickVideo, LiveStar, LiveVLM, ...)",
        "answers about the past exceed those of recent:4",
        ("asked, still", "asked, count"),
        "keep",
        "recent:4",
        "about the past, %",
        more,
    ),
    Public(
        "Who decides when to speak tells less that did not happen (TimeChat-Online, LiveStar, VideoLLM-online, ...)",
        "unfounded phrases are fewer than those of wait-k:3",
        ("told, still",),
        "schedule",
        "wait-k:3",
        "unfounded, %",
        less,
        must="coverage, %",
    ),
)
