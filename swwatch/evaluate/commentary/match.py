"""Two commentators side by side: every pair is asked twice, with either text first, and the votes are counted.

Definitions. Silence (no text, or none but dots) beats nothing and loses to any words, without a judge. Pairs of which
an order has no usable verdict are left out and counted.
    win share: votes for A / all votes, over both orders. The judge must choose. Two silent texts get no vote.
    win rate: wins / (2N), over both orders of N pairs; ties count as losses, for either side. Two silent texts tie.

Sources: StreamingVLM, arXiv 2510.09608 (share); LiveCC, arXiv 2504.16030 (rate). Values depend on the judge and on
what it is told, so that they do not compare across papers, nor with another judge.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from swwatch.evaluate.commentary.texts import cut, has_words
from swwatch.judge import pairwise
from swwatch.judge.asking import Verdict
from swwatch.judge.rubric import TIE, Criterion, Rubric
from swwatch.metrics.significance import interval, ratio_of

A, B, NOBODY = "A", "B", "nobody"


@dataclass(frozen=True)
class Pair:
    """What two commentators said about the same seconds; `a` or `b` is None where there is no prediction."""

    key: str
    video: str
    a: str | None
    b: str | None
    reference: str
    facts: dict  # of its row in the scores

    @property
    def silent(self) -> tuple[bool, bool]:
        return not has_words(self.a or ""), not has_words(self.b or "")


@dataclass(frozen=True)
class PairOutcome:
    """Who won when A was shown first, and when B was: A, B, tie, or nobody where both were silent."""

    pair: Pair
    ab: str
    ba: str

    @property
    def votes(self) -> dict[str, int]:
        return {side: (self.ab == side) + (self.ba == side) for side in (A, B)}

    @property
    def winner(self) -> str:
        votes = self.votes
        return TIE if votes[A] == votes[B] else A if votes[A] > votes[B] else B


def questions(
    rubric: Rubric, criterion: Criterion, pairs: Iterable[Pair], *, ties: bool
) -> dict[tuple[str, str], list[dict]]:
    """(pair, order) -> question, of the pairs that need a judge; each text is cut to LONGEST_TEXT."""
    return pairwise.questions(rubric, criterion, _clips(pairs), known=_known, ties=ties)


def outcomes(
    pairs: list[Pair], verdicts: dict[tuple[str, str], Verdict]
) -> tuple[list[PairOutcome], dict[str, Verdict]]:
    """What came of each pair, and one verdict of each that has none to use."""
    found, failed = pairwise.outcomes(_clips(pairs), verdicts, known=_known)
    named = {"a": A, "b": B}
    ends = {key: [named.get(who, who) for who in orders.values()] for key, orders in found.items()}
    return [PairOutcome(pair, *ends[pair.key]) for pair in pairs if pair.key in ends], failed


def _clips(pairs: Iterable[Pair]) -> pairwise.Clips:
    return {pair.key: (cut(pair.a or ""), cut(pair.b or ""), cut(pair.reference)) for pair in pairs}


def _known(a: str, b: str) -> str | None:
    """Silence beats nothing and loses to any words."""
    return {(False, False): NOBODY, (True, False): "a", (False, True): "b"}.get((has_words(a), has_words(b)))


def win_share(found: Iterable[PairOutcome]) -> float | None:
    """Votes for A / all votes; None without any vote."""
    votes = _votes(found)
    return votes[A] / votes.total() if votes.total() else None


def win_rate(found: list[PairOutcome], side: str = A) -> float | None:
    """Wins / (2N); ties are losses. None without any pair."""
    return _votes(found)[side] / (2 * len(found)) if found else None


def _votes(found: Iterable[PairOutcome]) -> Counter:
    total = Counter({A: 0, B: 0})
    for outcome in found:
        total.update(outcome.votes)
    return total


def summarize(found: list[PairOutcome], failed: dict[str, Verdict], *, ties: bool) -> dict:
    """Both figures' counts, the one that the task reports, and what was silent or missing.

    `ci95` draws videos anew: what is said about one video hangs together. One video alone has none.
    """
    by_video: dict[str, list[PairOutcome]] = {}
    for outcome in found:
        by_video.setdefault(outcome.pair.video, []).append(outcome)
    name, measure = ("win_rate", win_rate) if ties else ("win_share", win_share)
    value = measure(found)
    per_video = [_votes(group) for group in by_video.values()]
    wholes = [2 * len(group) if ties else _votes(group).total() for group in by_video.values()]
    few = value is None or len(by_video) < 2
    report = {
        name: value,
        "ci95": None if few else interval(ratio_of([v[A] for v in per_video], wholes)),
        "num_videos": len(by_video),
        "num_pairs": len(found) + len(failed),
        "num_judged": len(found),
        "votes": dict(_votes(found)),
        "winners": {side: sum(outcome.winner == side for outcome in found) for side in (A, B, TIE)},
        "num_tied_orders": sum((outcome.ab == TIE) + (outcome.ba == TIE) for outcome in found),
        "num_missing": {"A": sum(o.pair.a is None for o in found), "B": sum(o.pair.b is None for o in found)},
        "num_silent": {"A": sum(o.pair.silent[0] for o in found), "B": sum(o.pair.silent[1] for o in found)},
        "num_both_silent": sum(all(o.pair.silent) for o in found),
        "first_share": _first_share(found),
        "num_failed": len(failed),
        "num_unanswered": sum(verdict.unanswered for verdict in failed.values()),
        "why_failed": {key: verdict.why for key, verdict in failed.items()},
    }
    if ties:
        report["win_rate_of_b"] = win_rate(found, B)
    report["per_video"] = {
        video: {name: measure(group), "num_pairs": len(group), "votes": dict(_votes(group))}
        for video, group in by_video.items()
    }
    return report


def _first_share(found: list[PairOutcome]) -> float | None:
    """Share of the judge's answers that went to the text shown first, ties counted half: 0.5 is no bias."""
    judged = [outcome for outcome in found if not any(outcome.pair.silent)]
    worth = {TIE: 0.5}
    first = sum(worth.get(o.ab, o.ab == A) + worth.get(o.ba, o.ba == B) for o in judged)
    return first / (2 * len(judged)) if judged else None
