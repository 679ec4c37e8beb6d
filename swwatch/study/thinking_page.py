"""What came of thinking: a verdict for each way to think, by rule.

One rule was added when the first answers were seen, of a trial of one seed: an arm that answers fewer than half of the
questions about what is on display has not learned to answer, and no comparison with it says anything (guessing: 28 %).
"""

from pathlib import Path

import numpy as np

from swwatch.metrics.significance import compare
from swwatch.study import compared
from swwatch.study.claims import LEARNED, MARGIN, Claim, Evidence, more
from swwatch.study.compared import Found, read_found
from swwatch.study.page import claim_text
from swwatch.study.policy_plan import PolicyPlan, Row
from swwatch.study.thinking import ARMS, ARMS_TABLE, BUDGET, CLIPS, TESTS, VIEW_S

VERDICTS = ("helps", "does not help", "undecided")
DECIDES = ("about the past, %", "out of view, %")


def write_page(plan: PolicyPlan, folder: Path, out: Path) -> Path:
    """Write thinking_study.md and thinking_study.json; returns the page."""
    found = read_found(plan, folder)
    arms = [f"- `{name}`: {arm.about} (`{arm.model}`, keep `{arm.keep}`)" for name, arm in ARMS.items()]
    parts = [
        f"# Does thinking help? ({plan.name})",
        f"Models were fine-tuned from one BASE, {plan.steps} steps of 4 samples each, seeds "
        f"{', '.join(map(str, plan.seeds))}, on the same {CLIPS} streams of up to 24 s with the same questions and, "
        "for those that think, notes of each event when it is over. Then each watches "
        f"{plan.clips} clips of up to {plan.seconds} s of each world and is asked in mid-stream; a question leaves "
        f"no trace. Bounded arms have room for {BUDGET} tokens of video and thoughts: {VIEW_S} s of 4 tokens, or "
        "fewer and thoughts; markup and labels are not counted. The tables tell what was in view at most. In brackets "
        "95 % intervals, resampled over clips and seeds. Lag is CPU time from a question to the end of its answer. "
        "What holds for 1.6 M parameters need not hold for 7 B.",
        "\n".join(arms),
        *[_asked(found, test) for test in TESTS],
        "## Verdicts",
        *map(claim_text, claims(found)),
    ]
    return compared.write_page(found, out, "thinking", parts)


def _asked(found: Found, test: str) -> str:
    """How many questions a short memory cannot answer."""
    cells = found.cells[test, ARMS_TABLE, "all"]
    ago = [ago_s for clip in cells[0]["clips"] for kind, _, ago_s, _ in clip["asked"] if not compared.is_now(kind)]
    gone = sum(ago_s >= VIEW_S for ago_s in ago)
    return (
        f"{test.capitalize()}: {len(ago)} questions about the past to each arm and seed; the answer to {gone} of them "
        f"({100 * gone / max(1, len(ago)):.0f} %) does not follow from the newest {VIEW_S} s."
    )


def claims(found: Found) -> list[Claim]:
    rule = (
        "over all seeds and clips the interval of the paired difference lies above 0, and no seed says the opposite; "
        f"it does not help where its end is below {100 * MARGIN:.0f} points; else, or with one seed, undecided, "
        f"and where one of the two answers less than {100 * LEARNED:.0f} % right about now, and so has not learned to"
    )
    listed = [
        Claim(
            f"{name} instead of {other}: {test}",
            rule,
            _pooled(found, (test, ARMS_TABLE, name), (test, ARMS_TABLE, other)),
            VERDICTS,
        )
        for test in TESTS
        for name, arm in ARMS.items()
        for other in arm.without
    ]
    return [claim for claim in listed if claim.evidence]


def _pooled(found: Found, a: Row, b: Row) -> tuple[Evidence, ...]:
    """Of a minus b, over all seeds and clips; nothing where one of them was refused."""
    if found.refused(a) or found.refused(b):
        return ()
    listed, blind = [], any(found.statistic(row, "about now, %").value < LEARNED for row in (a, b))
    for share in DECIDES:
        pair = found.statistic(b, share), found.statistic(a, share)
        if not all(np.isfinite(statistic.value) for statistic in pair):
            continue
        one, seeds = compare(*pair), range(len(found.plan.seeds))
        each = [found.statistic(a, share, seed).value - found.statistic(b, share, seed).value for seed in seeds]
        low, high = one["ci95"]
        sign = more(low, high) if high > MARGIN else -1
        sign = 0 if blind or len(each) < 2 or sign > 0 and min(each) < 0 else sign
        text = f"{share}; of each seed {', '.join(f'{100 * value:+.1f}' for value in each)}"
        listed.append(Evidence(text, (one["difference"],), ((low, high),), (sign,), (blind,)))
    return tuple(listed)
