"""What a toy narration gets right: by position, by alignment in order, and as language.

Three families, for they fail apart. By POSITION, the i-th piece answers for the i-th event: one lost phrase and all
later ones count as wrong. By ALIGNMENT, phrases are matched with events in order (see mentions.align), which tells
"was never told" (`told`) from "was told wrongly" (`true`). As LANGUAGE, whatever it tells: does the text follow the
grammar, is it broken, does it stutter?
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields

from swwatch.metrics.significance import Statistic, ratio_of
from swwatch.toy.mentions import align, find_phrases
from swwatch.toy.world import COLORS, DIRECTIONS, OPENING, SHAPES, SceneEvent, parse_caption

# name -> share of what; all 0..1
MEANING = {
    "color": "events whose piece of the text, by position, has the right colour",
    "shape": "... the right shape",
    "direction": "... the right direction",
    "new_color": "recoloured events whose piece has the right second colour",
    "count": "clips with as many pieces as events",
    "parses": "clips whose text follows the grammar to the letter",
    "told": "events told in order with the right colour and shape (coverage)",
    "right": "events told in order with everything right",
    "true": "phrases that tell an event in order (precision: what was never told costs nothing)",
    "told_direction": "told events that also have the right direction",
    "broken": "pieces of text that are no whole phrase",
    "repeats": "clips with a word or a phrase twice in a row",
}


def toy_scores(clips: Iterable[tuple[str, Sequence[SceneEvent]]]) -> dict[str, float]:
    """Pooled shares over clips of (narration, events): see MEANING; `new_color` only where such events are.

    Returns:
        num_clips, num_events, and a share for each name whose denominator is not 0.
    """
    clips = list(clips)
    shares = {name: statistic.value for name, statistic in toy_statistics(clips).items()}
    return {"num_clips": len(clips), "num_events": sum(len(events) for _, events in clips)} | shares


def toy_statistics(clips: Iterable[tuple[str, Sequence[SceneEvent]]]) -> dict[str, Statistic]:
    """The shares of `toy_scores` in a form that can be resampled; those of nothing are left out."""
    counts = [clip_counts(text, events) for text, events in clips]
    found = {}
    for name in dict.fromkeys(name for clip in counts for name in clip):
        parts, wholes = zip(*(clip.get(name, (0, 0)) for clip in counts), strict=True)
        if sum(wholes):
            found[name] = ratio_of(parts, wholes)
    return found


def clip_counts(text: str, events: Sequence[SceneEvent]) -> dict[str, tuple[float, int]]:
    """For each share of MEANING its numerator and denominator in one clip."""
    counts: dict[str, tuple[float, int]] = {}
    for name, share in score_caption(text, events).items():
        weight = 1 if name in ("count", "parses") else len(events)
        counts[name] = (share * weight, weight)
    phrases = find_phrases(text)
    pairs = zip(phrases, align(phrases, [asdict(event) for event in events]), strict=True)
    matched = [(phrase, events[j]) for phrase, j in pairs if j is not None]
    counts["told"] = (len(matched), len(events))
    wholly = sum((p.direction, p.new_color) == (event.direction, event.new_color) for p, event in matched)
    counts["right"] = (wholly, len(events))
    counts["true"] = (len(matched), len(phrases))
    counts["told_direction"] = (sum(phrase.direction == event.direction for phrase, event in matched), len(matched))
    pieces = _pieces(text)
    counts["broken"] = (sum(parse_caption(f"{OPENING} {piece}.") is None for piece in pieces), len(pieces))
    counts["repeats"] = (int(_repeats(text)), 1)
    return counts


def score_caption(text: str, events: Sequence[SceneEvent]) -> dict[str, float | bool]:
    """How much of what happened a caption tells, event by event in order. Any text can be scored.

    The text is cut at commas and "and"; the i-th piece answers for the i-th event with the first color, shape and
    direction word found in it. A missing piece or word counts as wrong; pieces too many only make `count` false.

    Returns:
        `color`, `shape`, `direction` (and `new_color` where events have one): share of the events told right, 0..1;
        `count`: as many pieces as events; `parses`: the text follows the caption grammar to the letter.
    """
    parts = [re.findall(r"[a-z]+", part) for part in re.split(r",|\band\b", text.lower())]
    words_of = [_first_words(words) for words in parts]
    fields = ["color", "shape", "direction"] + ["new_color"] * any(event.new_color for event in events)
    scores: dict[str, float | bool] = {}
    for name in fields:
        right = sum(said[name] == getattr(event, name) for said, event in zip(words_of, events, strict=False))
        scores[name] = right / len(events) if events else 0.0
    return scores | {"count": len(parts) == len(events), "parses": parse_caption(text) is not None}


def _first_words(words: list[str]) -> dict[str, str | None]:
    """The first word of each kind in a piece of a caption; `new_color` only after the word "turning"."""
    turned = words[words.index("turning") + 1 :] if "turning" in words else []
    return {
        "color": next((word for word in words if word in COLORS), None),
        "shape": next((word for word in words if word in SHAPES), None),
        "direction": next((word for word in words if word in DIRECTIONS), None),
        "new_color": next((word for word in turned if word in COLORS), None),
    }


def toy_events(record: Mapping) -> list[SceneEvent]:
    """The events of a toy record; none for a record of another data set, whatever its `events` are."""
    events, known = record.get("events"), [field.name for field in fields(SceneEvent)]
    if not isinstance(events, list) or not all(
        isinstance(event, dict) and {"color", "shape", "direction"} <= event.keys() for event in events
    ):
        return []
    return [SceneEvent(**{name: event[name] for name in known if name in event}) for event in events]


def _pieces(text: str) -> list[str]:
    """The text without opening and full stop, cut at commas and "and"."""
    body = text.strip().removeprefix(OPENING).strip().removesuffix(".")
    return [piece.strip() for piece in re.split(r",|\band\b", body) if piece.strip()]


def _repeats(text: str) -> bool:
    words, pieces = re.findall(r"[a-z]+", text.lower()), _pieces(text)
    return any(a == b for run in (words, pieces) for a, b in zip(run, run[1:], strict=False))
