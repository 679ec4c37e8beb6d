"""When each event of a clip was told: lag, time difference, coverage and redundancy.

Source and target of simultaneous translation become events in time and the mentions that tell them. Which mention
tells which event is not this module's business: a matcher says so (`swwatch.toy.mentions` for the toy world).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mention:
    """A phrase of a narration that tells, or tries to tell, an event.

    Attributes:
        token: index of the token that finishes the phrase.
        event: index of the event that it tells; None where nothing that happened answers to it.
        repeat: it tells that event again; an event is told by the one mention that is no repeat.
    """

    token: int
    event: int | None
    repeat: bool = False


# (text of every token, the record's events) -> the mentions in the order of the text
Matcher = Callable[[Sequence[str], Sequence[Mapping]], Sequence[Mention]]

DEFINITIONS = {
    "coverage": "events that were told / all events (TimCover of LiveStar, Yang et al. 2025, arXiv 2511.05299, by "
    "content instead of by any response in the event's time)",
    "redundancy": "mentions that repeat an event already told / all events (after TimRedun of LiveStar, which also "
    "counts a missing response; here that lowers coverage alone)",
    "unfounded": "mentions that tell nothing that happened / all mentions",
    "unseen": "told events of which no frame could be seen yet when they were told (guesses) / told events",
    "lag_s": "told - start of the event: seconds behind an oracle that tells each event the moment it begins (the "
    "idea of LAAL, Papi et al. 2022, with the real starts in place of its evenly spread oracle)",
    "delay_s": "told - end of the event: Average Token Delay (Kano et al. 2022, arXiv 2211.13173: end of an output "
    "token - end of the input token that belongs to it), the pairs given by the matcher instead of by counting",
    "time_diff_s": "|told - end of the event|: TimeDiff of VideoLLM-online (Chen et al. 2024, arXiv 2406.11816: "
    "|response time - expected time|); expected is the end, when all of the event has been shown",
}


def event_timing(tokens: Sequence[Mapping], events: Sequence[Mapping], mentions: Iterable[Mention]) -> dict:
    """The timing of one clip's events.

    An event is told at the emission of the token that finishes its mention. Missing events lower coverage and touch no
    other value; repeats raise redundancy and touch no other value.

    Args:
        tokens: the clip's trace (t_emit_s, t_frame_s in stream seconds).
        events: with start_s and end_s in the same seconds.
        mentions: in the order of the text.
    Returns:
        num_events, num_mentions, num_told, num_repeated, num_unfounded, num_unseen; told_s, lag_s, delay_s and
        time_diff_s: one value an event, None where it was not told. Definitions: see DEFINITIONS.
    """
    mentions = list(mentions)
    first = {mention.event: mention.token for mention in mentions if mention.event is not None and not mention.repeat}
    times = [tokens[first[i]]["t_emit_s"] if i in first else None for i in range(len(events))]
    pairs = [(t, event) for t, event in zip(times, events, strict=True)]
    return {
        "num_events": len(events),
        "num_mentions": len(mentions),
        "num_told": len(first),
        "num_repeated": sum(mention.repeat for mention in mentions),
        "num_unfounded": sum(mention.event is None for mention in mentions),
        "num_unseen": sum(tokens[token]["t_frame_s"] < events[i]["start_s"] for i, token in first.items()),
        "told_s": times,
        "lag_s": [None if t is None else t - event["start_s"] for t, event in pairs],
        "delay_s": [None if t is None else t - event["end_s"] for t, event in pairs],
        "time_diff_s": [None if t is None else abs(t - event["end_s"]) for t, event in pairs],
    }


def shares(counts: Mapping[str, int]) -> dict[str, float | None]:
    """coverage, redundancy, unfounded and unseen (see DEFINITIONS) of the counts of one clip, or of their sums."""
    parts = {
        "coverage": ("num_told", "num_events"),
        "redundancy": ("num_repeated", "num_events"),
        "unfounded": ("num_unfounded", "num_mentions"),
        "unseen": ("num_unseen", "num_told"),
    }
    return {name: counts[a] / counts[b] if counts[b] else None for name, (a, b) in parts.items()}


def timed(events: object) -> bool:
    """Whether a record's `events` are a list of objects with start_s and end_s in seconds, and not empty."""
    return (
        isinstance(events, list)
        and bool(events)
        and all(
            isinstance(event, Mapping) and all(isinstance(event.get(key), int | float) for key in ("start_s", "end_s"))
            for event in events
        )
    )
