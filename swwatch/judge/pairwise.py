"""Two runs side by side: every clip is asked twice, with either caption first.

Definitions. An order gives run A 1 where its caption is preferred, 0 where B's is, 1/2 for a tie. A clip's score is
the mean of its two orders, so a preference that turns with the order counts as a tie. The win rate is the mean score
over clips. A clip is won above 1/2 and lost below.

Source: both orders are asked because judges favour a place (Zheng et al. 2023, MT-Bench, arXiv 2306.05685).
"""

from collections.abc import Callable

from swwatch.errors import UserError
from swwatch.judge.asking import Verdict
from swwatch.judge.pointwise import failures
from swwatch.judge.rubric import FIRST, SECOND, TIE, Criterion, Rubric, compare_messages, fingerprint
from swwatch.metrics.significance import interval, mean_of

ORDERS = ("a_first", "b_first")
Clips = dict[str, tuple[str, str, str]]  # clip -> (caption of A, caption of B, reference)
Known = Callable[[str, str], str | None]
_WINNER = {"a_first": {FIRST: "a", SECOND: "b", TIE: TIE}, "b_first": {FIRST: "b", SECOND: "a", TIE: TIE}}
_WORTH = {"a": 1.0, TIE: 0.5, "b": 0.0}


def decided(a: str, b: str) -> str | None:
    """The outcome that needs no judge: equal captions tie, and a caption beats none at all."""
    a, b = a.strip(), b.strip()
    if a == b:
        return TIE
    return "a" if not b else "b" if not a else None


def questions(
    rubric: Rubric, criterion: Criterion, clips: Clips, *, known: Known = decided, ties: bool = True
) -> dict[tuple[str, str], list[dict]]:
    """(clip, order) -> question.

    Args:
        known: two captions -> the outcome that needs no judge, or None.
        ties: as for `compare_messages`.
    """
    questions = {}
    for key, (a, b, reference) in clips.items():
        if known(a, b) is None:
            questions[key, "a_first"] = compare_messages(rubric, criterion, a, b, reference, ties=ties)
            questions[key, "b_first"] = compare_messages(rubric, criterion, b, a, reference, ties=ties)
    return questions


def outcomes(
    clips: Clips, verdicts: dict[tuple[str, str], Verdict], *, known: Known = decided
) -> tuple[dict[str, dict[str, str]], dict[str, Verdict]]:
    """Clip -> order -> who won (a, b, tie, or what is known); and one verdict of each clip that has none to use."""
    found, failed = {}, {}
    for key, (a, b, _) in clips.items():
        if outcome := known(a, b):
            found[key] = dict.fromkeys(ORDERS, outcome)
            continue
        pair = {order: verdicts[key, order] for order in ORDERS}
        if lacking := [verdict for verdict in pair.values() if verdict.value is None]:
            failed[key] = lacking[0]
        else:
            found[key] = {order: _WINNER[order][verdict.value] for order, verdict in pair.items()}
    return found, failed


def summarize(clips: Clips, verdicts: dict[tuple[str, str], Verdict]) -> dict:
    """Verdicts to a win rate of run A, with what the order of showing did to them.

    A clip of which either order has no usable answer is left out. `position_bias` is over the clips that were asked:
    the share in which the caption shown first (second) was preferred in both orders, and the share of all answers that
    went to the first shown, ties counted half (0.5: no bias).

    Raises:
        UserError: not one clip could be judged.
    """
    found, failed = outcomes(clips, verdicts)
    if not found:
        raise UserError(f"no clip could be judged; the first: {next(iter(failed.values())).why}")
    scores = {key: sum(_WORTH[pair[order]] for order in ORDERS) / 2 for key, pair in found.items()}
    values = list(scores.values())
    return {
        "num_clips": len(clips),
        "num_judged": len(found),
        "num_not_asked": sum((key, "a_first") not in verdicts for key in found),
        "win_rate": sum(values) / len(values),
        "ci95": interval(mean_of(values)),
        "num_won": sum(value > 0.5 for value in values),
        "num_tied": sum(value == 0.5 for value in values),
        "num_lost": sum(value < 0.5 for value in values),
        "win_rate_by_order": {
            order: sum(_WORTH[pair[order]] for pair in found.values()) / len(found) for order in ORDERS
        },
        "position_bias": _position_bias([verdicts[k, o].value for k in found for o in ORDERS if (k, o) in verdicts]),
        **failures(failed),
        "per_clip": {key: {**pair, "score": scores[key]} for key, pair in found.items()},
        "why": {key: {o: verdicts[key, o].why for o in ORDERS} for key in found if (key, "a_first") in verdicts},
    }


def _position_bias(choices: list[str]) -> dict | None:
    """Args: first, second or tie, two by two the orders of a clip; None where nothing was asked."""
    if not choices:
        return None
    pairs = list(zip(choices[::2], choices[1::2], strict=True))
    return {
        "num_clips": len(pairs),
        "first_in_both": pairs.count((FIRST, FIRST)) / len(pairs),
        "second_in_both": pairs.count((SECOND, SECOND)) / len(pairs),
        "first_share": (choices.count(FIRST) + choices.count(TIE) / 2) / len(choices),
    }


def rubric_sha256(rubric: Rubric, criterion: Criterion, *, ties: bool = True) -> str:
    return fingerprint(compare_messages(rubric, criterion, "first", "second", "reference", ties=ties))
