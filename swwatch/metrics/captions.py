"""BLEU-1..4, ROUGE-L, CIDEr and METEOR of captions, by pycocoevalcap's own scorers."""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge

from swwatch.errors import UserError
from swwatch.metrics.tokenize import JAVA_TIMEOUT_S, java_problem, tokenize_java, tokenize_python

SCALE = "as pycocoevalcap gives them: BLEU, ROUGE-L, METEOR 0..1, CIDEr 0..10; tables show them times 100"
Tokens = dict[str, list[str]]  # clip -> tokenized captions, pycocoevalcap's form


def caption_scores(predictions: Mapping[str, str], references: Mapping[str, str | Sequence[str]]) -> dict:
    """Score one caption a clip against one or more references.

    An empty caption is a bad caption, not a missing one: it scores 0. CIDEr weighs words by how rare they are among
    the references of the corpus, so it is 0 by definition for a corpus of one clip, and small for very few.

    Returns:
        {"scale": how to read the values, "tokenizer": "ptb-java" or "ptb-python", "num_clips": n,
        "corpus": {"BLEU-1": x, ..., "BLEU-4", "ROUGE-L", "CIDEr", "METEOR"}, "per_clip": {id: the same}}. Where METEOR
        cannot be had it is {"value": None, "why": text} in corpus and absent per clip. Corpus BLEU counts n-grams
        over all clips; the others are means (METEOR by its own aggregation).
    Raises:
        UserError: nothing to score, or clips with a caption and without a reference, or the other way round.
    """
    refs = {key: [value] if isinstance(value, str) else list(value) for key, value in references.items()}
    _check_pairs(predictions, refs)
    why_no_java = java_problem()
    tokenize = tokenize_python if why_no_java else tokenize_java
    keys = list(predictions)  # one fixed order for every scorer
    candidates, targets = _tokenized(tokenize, {k: [predictions[k]] for k in keys}, {k: refs[k] for k in keys})
    empty = [key for key in keys if not any(targets[key])]
    if empty:
        raise UserError(
            f"{len(empty)} of {len(keys)} clips have only empty references, such as {empty[0]!r}: drop them"
        )

    corpus, per_clip = {}, {key: {} for key in keys}

    def put(name: str, total: float, each: Sequence[float]) -> None:
        corpus[name] = float(total)
        for key, value in zip(keys, each, strict=True):
            per_clip[key][name] = float(value)

    totals, lists = Bleu(4).compute_score(targets, candidates, verbose=0)
    for n, (total, each) in enumerate(zip(totals, lists, strict=True), start=1):
        put(f"BLEU-{n}", total, each)
    put("ROUGE-L", *Rouge().compute_score(targets, candidates))
    put("CIDEr", *Cider().compute_score(targets, candidates))
    try:
        if why_no_java:
            raise _Unavailable(why_no_java)
        put("METEOR", *_meteor(targets, candidates))
    except _Unavailable as error:
        corpus["METEOR"] = {"value": None, "why": str(error)}
    tokenizer = "ptb-python" if why_no_java else "ptb-java"
    return {"scale": SCALE, "tokenizer": tokenizer, "num_clips": len(keys), "corpus": corpus, "per_clip": per_clip}


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
        meteor = Meteor()
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
        raise _Unavailable(f"the METEOR jar failed: {said[-1] if said else error}") from error
    finally:
        watchdog.cancel()
        if meteor.lock.locked():  # left locked by an exception, it would make Meteor.__del__ wait for ever
            meteor.lock.release()
