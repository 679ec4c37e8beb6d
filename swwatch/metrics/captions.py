"""BLEU-1..4, ROUGE-L, CIDEr and METEOR of captions, by pycocoevalcap's own scorers."""

import contextlib
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import METEOR_JAR, Meteor
from pycocoevalcap.meteor.meteor import __file__ as meteor_folder
from pycocoevalcap.rouge.rouge import Rouge

from swwatch.errors import UserError
from swwatch.metrics.significance import BLEU_ORDERS, Statistic, bleu_of, interval, mean_of
from swwatch.metrics.tokenize import JAVA_TIMEOUT_S, java_problem, tokenize_java, tokenize_python

SCALE = "as pycocoevalcap gives them: BLEU, ROUGE-L, METEOR 0..1, CIDEr 0..10; tables show them times 100"
Tokens = dict[str, list[str]]  # clip -> tokenized captions, pycocoevalcap's form


class Metric(Protocol):
    """A metric that scores clips one by one; `about` tells for each of its names what it computes with."""

    about: dict[str, str]

    def __call__(self, captions: list[str], references: list[list[str]]) -> dict[str, list[float]]: ...


@dataclass(frozen=True)
class Measured:
    """What the metrics found, in a form that can be resampled.

    Attributes:
        keys: the clips, in the order of every statistic.
        left_out: clips whose references have no word, such as "...".
        statistics: metric -> its sums per clip; METEOR's aggregate over clips is the jar's own and not among them,
            the mean of its clip values is, as METEOR-mean.
        corpus: metric -> value, or {"value": None, "why": text}.
        per_clip: clip -> metric -> value.
    """

    keys: list[str]
    tokenizer: str
    left_out: list[str] = field(default_factory=list)
    statistics: dict[str, Statistic] = field(default_factory=dict)
    corpus: dict[str, float | dict] = field(default_factory=dict)
    per_clip: dict[str, dict[str, float]] = field(default_factory=dict)

    def put(self, name: str, statistic: Statistic | None, each: Sequence[float], total: float | None = None) -> None:
        """Enter a metric; its value is `total` where the scorer gives one of its own."""
        if statistic is not None:
            self.statistics[name] = statistic
        self.corpus[name] = float(statistic.value if total is None else total)
        for key, value in zip(self.keys, each, strict=True):
            self.per_clip.setdefault(key, {})[name] = float(value)


def caption_scores(
    predictions: Mapping[str, str], references: Mapping[str, str | Sequence[str]], *, learned: Sequence[Metric] = ()
) -> dict:
    """Score one caption a clip against one or more references.

    An empty caption is a bad caption, not a missing one: it scores 0. CIDEr weighs words by how rare they are among
    the references of the corpus, so it is 0 by definition for a corpus of one clip, and small for very few.

    Args:
        learned: more metrics, such as BLEURT and BERTScore, whose corpus value is the mean of their clip values.
    Returns:
        {"scale": how to read the values, "tokenizer": "ptb-java" or "ptb-python", "num_clips": n,
        "corpus": {"BLEU-1": x, ..., "BLEU-4", "ROUGE-L", "CIDEr", "METEOR"}, "per_clip": {id: the same},
        "ci95": {metric: [low, high]}}. Where METEOR cannot be had it is {"value": None, "why": text} in corpus and
        absent per clip. Corpus BLEU counts n-grams over all clips; the others are means, but METEOR aggregates by its
        own rule. It has no interval; METEOR-mean, the mean of its clip values, has one. Where clips have references
        without a word, such as "...", "left_out" names them, and they are not scored.
    Raises:
        UserError: nothing to score, or clips with a caption and without a reference, or the other way round.
    """
    found = measure(predictions, references, learned=learned)
    left_out = {"left_out": found.left_out} if found.left_out else {}
    return left_out | {
        "scale": SCALE,
        "tokenizer": found.tokenizer,
        "num_clips": len(found.keys),
        "corpus": found.corpus,
        "per_clip": found.per_clip,
        "ci95": {name: interval(statistic) for name, statistic in found.statistics.items()},
    }


def measure(
    predictions: Mapping[str, str], references: Mapping[str, str | Sequence[str]], *, learned: Sequence[Metric] = ()
) -> Measured:
    """The scores of `caption_scores` with what is needed to resample them."""
    refs = {key: [value] if isinstance(value, str) else list(value) for key, value in references.items()}
    _check_pairs(predictions, refs)
    why_no_java = java_problem()
    tokenize = tokenize_python if why_no_java else tokenize_java
    keys = list(predictions)  # one fixed order for every scorer
    candidates, targets = _tokenized(tokenize, {k: [predictions[k]] for k in keys}, {k: refs[k] for k in keys})
    empty = [key for key in keys if not any(targets[key])]
    if len(empty) == len(keys):
        raise UserError(f"none of the {len(keys)} clips has a reference with a word in it: check the annotations")
    keys = [key for key in keys if any(targets[key])]
    candidates, targets = {key: candidates[key] for key in keys}, {key: targets[key] for key in keys}

    found = Measured(keys, "ptb-python" if why_no_java else "ptb-java", empty)
    counts = bleu_counts(targets, candidates)
    for n in range(1, BLEU_ORDERS + 1):
        found.put(f"BLEU-{n}", bleu_of(counts, n), [bleu_of(row[None], n).value for row in counts])
    for name, scorer in (("ROUGE-L", Rouge()), ("CIDEr", Cider())):
        each = scorer.compute_score(targets, candidates)[1]
        found.put(name, mean_of(each), each)
    try:
        if why_no_java:
            raise _Unavailable(why_no_java)
        total, each = _meteor(targets, candidates)
        found.put("METEOR", None, each, total)
        found.statistics["METEOR-mean"] = mean_of(each)
        found.corpus["METEOR-mean"] = found.statistics["METEOR-mean"].value
    except _Unavailable as error:
        found.corpus["METEOR"] = {"value": None, "why": str(error)}
    for metric in learned:
        for name, each in metric([predictions[k] for k in keys], [refs[k] for k in keys]).items():
            found.put(name, mean_of(each), each)
    return found


def bleu_counts(targets: Tokens, candidates: Tokens) -> np.ndarray:
    """What corpus BLEU sums over clips, counted by pycocoevalcap's own scorer.

    Returns:
        (N, 10): caption length, length of the closest reference, n-grams of length 1..4 in the caption, and those of
        them that a reference has too. Clips in the order of `targets`.
    """
    scorer = BleuScorer(n=BLEU_ORDERS)
    for key in targets:
        scorer += (candidates[key][0], targets[key])
    rows = []
    for clip in scorer.ctest:
        length = clip["testlen"]
        closest = min(clip["reflen"], key=lambda target: (abs(target - length), target))
        rows.append([length, closest, *clip["guess"], *clip["correct"]])
    return np.array(rows, dtype=float)


class EnglishMeteor(Meteor):
    """pycocoevalcap's, whose numbers have points in every locale and whose folder may have blanks in its name."""

    def __init__(self):
        folder, pipe = Path(meteor_folder).parent, subprocess.PIPE
        self.meteor_cmd = [
            "java",
            "-Duser.language=en",
            "-Duser.country=US",
            "-Xmx2G",
            "-jar",
            str(folder / METEOR_JAR),
        ]
        self.meteor_cmd += ["-", "-", "-stdio", "-l", "en", "-norm"]
        self.meteor_cmd += ["-a", str(folder / "data" / "paraphrase-en.gz")]
        self.meteor_p = subprocess.Popen(self.meteor_cmd, stdin=pipe, stdout=pipe, stderr=pipe)
        self.lock = threading.Lock()


class _Unavailable(Exception):
    """METEOR cannot be computed here; the text says why."""


def _check_pairs(predictions: Mapping, references: Mapping) -> None:
    if not predictions:
        raise UserError("there is no caption to score")
    for what, have, want in (("reference", references, predictions), ("caption", predictions, references)):
        missing = [key for key in want if not have.get(key) and (what == "reference" or key not in have)]
        if missing:
            some = ", ".join(repr(key) for key in missing[:3])
            raise UserError(f"{len(missing)} of {len(want)} clips have no {what} ({some}...): score matching sets")


def _tokenized(tokenize: Callable[[list[str]], list[str]], *groups: Tokens) -> list[Tokens]:
    """Tokenize all captions of all groups in one call (each call starts a Java process)."""
    flat = iter(tokenize([text for group in groups for texts in group.values() for text in texts]))
    return [{key: [next(flat) for _ in texts] for key, texts in group.items()} for group in groups]


def _meteor(targets: Tokens, candidates: Tokens, timeout_s: float = JAVA_TIMEOUT_S) -> tuple[float, list[float]]:
    """METEOR by the jar inside pycocoevalcap.

    Raises:
        _Unavailable: the jar does not start, dies, hangs or answers nonsense.
    """
    try:
        meteor = EnglishMeteor()
    except OSError as error:
        raise _Unavailable(f"the METEOR jar does not start: {error}") from error
    watchdog = threading.Timer(timeout_s, meteor.meteor_p.kill)
    watchdog.daemon = True
    watchdog.start()
    try:
        return meteor.compute_score(targets, candidates)
    except (OSError, ValueError) as error:  # a pipe that broke, an empty or unreadable answer
        meteor.meteor_p.kill()
        with contextlib.suppress(BrokenPipeError):  # else Meteor.__del__ meets it
            meteor.meteor_p.stdin.close()
        said = meteor.meteor_p.stderr.read().decode(errors="replace").strip().splitlines()
        lines = [line for line in said if not line.startswith(("\t", "Picked up"))]  # no stack trace
        raise _Unavailable(f"the METEOR jar failed: {lines[0] if lines else error}") from error
    finally:
        watchdog.cancel()
        if meteor.lock.locked():  # left locked by an exception, it would make Meteor.__del__ wait for ever
            meteor.lock.release()
