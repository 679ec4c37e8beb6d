"""What a comparison of policies found: a plot of quality against cost, and what comes of public claims."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from swwatch.paths import make_folder
from swwatch.pictures.plots import panels, save
from swwatch.policies.speak import SPEAK
from swwatch.study import compared
from swwatch.study.claims import Claim, kept, less, more
from swwatch.study.compared import Found, read_found, versus
from swwatch.study.page import claim_text
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
        *map(claim_text, claims(found)),
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


def claims(found: Found) -> list[Claim]:
    """Public claims that can be tested at this size. A comparison says nothing where the plain policy of its table has
    less than half of the share, or, where a share `must` be reached, the policy itself less than half of that."""

    def each(
        tests: Sequence[str], table: str, policies: Iterable[str], other: str, share: str, rule: Callable, must=""
    ):
        pairs = [((test, table, policy), (test, table, other)) for test in tests for policy in policies]
        plain = {test: ((test, table, PLAIN[table]), must or share) for test in tests}
        return tuple(one for a, b in pairs for one in versus(found, a, b, share, rule, plain[a[0]]))

    see = dict.fromkeys(policy for _, table, policy in found.cells if table == "see" and policy != "all")
    kinds = list(dict.fromkeys(policy for _, table, policy in found.cells if table == "keep"))
    memories = [policy for policy in kinds if policy not in CONTROLS and policy.split(":")[0] not in NO_MEMORY]
    deciding = [str(SPEAK[name]()) for name in ("change", "sved", "gate", "head")]
    listed = [
        Claim(
            "Most video tokens can be dropped and narration stays as good (TimeChat-Online, STC, FlashVID, ...).",
            "events told right change by less than 5 points from `all`, each policy of SEE, on both worlds",
            each(("told, still", "told, minutes"), "see", see, "all", "right, %", kept),
        ),
        Claim(
            "No memory beats the newest few seconds where the present is asked about (SimpleStream).",
            "answers about now of each memory do not exceed those of recent:4",
            each(("asked, still", "asked, count"), "keep", memories, "recent:4", "about now, %", not_more),
        ),
        Claim(
            "A memory knows more of the past than the newest few seconds (ReKV, QuickVideo, LiveStar, ...).",
            "answers about the past of each memory exceed those of recent:4",
            each(("asked, still", "asked, count"), "keep", memories, "recent:4", "about the past, %", more),
        ),
        Claim(
            "Who decides when to speak says less that did not happen (TimeChat-Online, LiveStar, VideoLLM-online, "
            "Dispider).",
            "unfounded phrases of each such policy are fewer than those of wait-k:3, on the still world",
            each(("told, still",), "schedule", deciding, "wait-k:3", "unfounded, %", less, "coverage, %"),
        ),
    ]
    return [claim for claim in listed if claim.evidence]


def not_more(low: float, high: float) -> int:
    """For where a difference may be nothing or less."""
    return (high <= 0.05) - (low > 0)
