"""How sure a score is: bootstrap intervals over clips, and paired tests between two runs on the same clips.

The chance in question is which clips were drawn for the test set. Everything else is held fixed: the model, its
training seed, and for CIDEr the word weights of the full set of references.

Interval: the percentile bootstrap (Efron and Tibshirani 1993, chapter 13). Clips are drawn anew with replacement, the
corpus value is computed from each drawn set, and the interval holds the middle 95 % of these values. For the
difference of two runs both are computed on the same drawn clips (paired bootstrap, Koehn 2004, W04-3250).

Test: approximate randomization (Noreen 1989; for such scores Riezler and Maxwell 2005, W05-0908). If the two runs were
equally good, each clip's two captions could as well change places. They do so at random in every round; p is the share
of rounds whose difference is at least as large, in either direction, as the one observed, (1 + hits) / (1 + rounds).

A score is any function of sums over clips, so corpus BLEU is resampled by its n-gram counts and is, on the full
sample, exactly pycocoevalcap's corpus value; no mean of clip values stands in for it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from swwatch.metrics import NUM_RESAMPLES

CONFIDENCE = 0.95
BLEU_ORDERS = 4
# pycocoevalcap's guards against division by zero, so that the values agree to the last digit that matters
_TINY, _SMALL = 1e-15, 1e-9


@dataclass(frozen=True)
class Statistic:
    """What a score sums over clips, and how the sums become the score.

    Attributes:
        per_clip: (N, S) float, S sums of N clips.
        finish: (..., S) sums and the number of clips -> (...) scores.
    """

    per_clip: np.ndarray
    finish: Callable[[np.ndarray, int], np.ndarray]

    @property
    def value(self) -> float:
        """The score of the whole sample."""
        return float(self.finish(self.per_clip.sum(axis=0), len(self.per_clip)))


def mean_of(values) -> Statistic:
    """A score that is the mean of clip values: ROUGE-L, CIDEr, BLEURT, BERTScore, fluency."""
    return Statistic(np.asarray(values, dtype=float)[:, None], lambda sums, n: sums[..., 0] / n)


def ratio_of(parts, wholes) -> Statistic:
    """A share of things that come in different numbers per clip, such as events told right."""
    return Statistic(np.stack([np.asarray(parts, float), np.asarray(wholes, float)], axis=1), _ratio)


def _ratio(sums: np.ndarray, num_clips: int) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def bleu_of(counts, order: int) -> Statistic:
    """Corpus BLEU-`order`, as pycocoevalcap computes it.

    Args:
        counts: (N, 10) of each clip: caption length, length of the closest reference, then for n-grams of length
            1..4 the number in the caption, then the number of those that match.
    """

    def finish(sums: np.ndarray, num_clips: int) -> np.ndarray:
        length, target = sums[..., 0], sums[..., 1]
        guessed, correct = sums[..., 2 : 2 + order], sums[..., 2 + BLEU_ORDERS : 2 + BLEU_ORDERS + order]
        precision = np.prod((correct + _TINY) / (guessed + _SMALL), axis=-1) ** (1 / order)
        ratio = (length + _TINY) / (target + _SMALL)
        return precision * np.exp(np.minimum(0, 1 - 1 / ratio))  # too short a text is penalized

    return Statistic(np.asarray(counts, dtype=float), finish)


def interval(statistic: Statistic, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> list[float]:
    """The 95 % bootstrap interval of a score, [low, high]. Equal seeds draw equal clips."""
    return _middle(_bootstrap(statistic, num_resamples, seed))


def compare(a: Statistic, b: Statistic, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> dict:
    """Score of run B minus score of run A on the same clips.

    Args:
        a, b: the same score of both runs, clips in the same order.
    Returns:
        {"a": value, "b": value, "difference": b - a, "ci95": its paired bootstrap interval, "p_value": by approximate
        randomization, two-sided}.
    """
    if a.per_clip.shape != b.per_clip.shape:
        raise ValueError(f"not the same clips: {a.per_clip.shape} and {b.per_clip.shape}")
    draws = _bootstrap(b, num_resamples, seed) - _bootstrap(a, num_resamples, seed)
    observed = b.value - a.value
    num_clips = len(a.per_clip)
    swaps = np.random.default_rng(seed).integers(0, 2, (num_resamples, num_clips)).astype(float)
    moved = swaps @ (b.per_clip - a.per_clip)  # what changing places adds to the sums of A and takes from B's
    shuffled = b.finish(b.per_clip.sum(0) - moved, num_clips) - a.finish(a.per_clip.sum(0) + moved, num_clips)
    # sums in another order differ in the last digits: an equal difference must count as a hit
    least = abs(observed) - 1e-9 * max(abs(a.value), abs(b.value), 1e-12)
    hits = int((~(np.abs(shuffled) < least)).sum())  # a round without a value speaks for no difference either
    return {
        "a": a.value,
        "b": b.value,
        "difference": observed,
        "ci95": _middle(draws),
        "p_value": (1 + hits) / (1 + num_resamples),
    }


def _bootstrap(statistic: Statistic, num_resamples: int, seed: int) -> np.ndarray:
    """(R,) scores of resampled sets; how often each clip was drawn is one row of a multinomial."""
    num_clips = len(statistic.per_clip)
    times = np.random.default_rng(seed).multinomial(num_clips, np.full(num_clips, 1 / num_clips), num_resamples)
    return statistic.finish(times @ statistic.per_clip, num_clips)


def _middle(draws: np.ndarray) -> list[float]:
    edge = 50 * (1 - CONFIDENCE)
    draws = draws[np.isfinite(draws)]  # a share of nothing, where no drawn clip has a whole
    low, high = np.percentile(draws, [edge, 100 - edge]) if len(draws) else (np.nan, np.nan)
    return [float(low), float(high)]
