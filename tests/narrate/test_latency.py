"""The lines of a live narration: what each second of video cost, and whether the narrator keeps up."""

import io

from swwatch.engine.trace import Watched
from swwatch.narrate.latency import show_lag
from swwatch.narrate.words import Token


def word(step, text, at_s, seen=None):
    seen = step if seen is None else seen
    return Token(step, 7, seen, seen + 0.5, at_s, text=text)


def shown(events, step_s: float = 1.0) -> list[str]:
    out = io.StringIO()
    assert list(show_lag(events, step_s, out)) == events, "all events are passed on"
    return out.getvalue().splitlines()[1:]


def test_one_line_for_each_second_with_its_lags_and_words():
    lines = shown(
        [
            *(Watched(0, 0.5, 0.6), word(0, " a", 0.75), word(0, " dog", 0.8)),
            *(Watched(1, 1.5, 1.7), word(1, " runs", 1.8), word(1, "\nfast", 3.0)),
            *(Watched(2, 2.5, 3.1), word(2, "er.", 3.25)),
        ]
    )
    assert lines[:-1] == [
        "seen 0-1   s  watched +  0.10  word +  0.25 | a dog",
        "seen 0-2   s  watched +  0.20  word +  0.30 | runs fast  (0.50 s behind)",
        "seen 0-3   s  watched +  0.60  word +  0.75 | er.",
    ]
    assert lines[-1] == (
        "kept up in 1 of 2 seconds; watched +0.20 s (median), +0.60 s (most); "
        "first word +0.30 s (median), +0.75 s (most)"
    )


def test_a_step_watched_ahead_gets_its_line_with_its_own_words():
    lines = shown(
        [
            Watched(0, 0.5, 0.6),
            Watched(1, 1.5, 1.6),
            word(0, " a", 1.6),
            word(1, " b", 1.7),
            word(2, " c", 1.8, seen=1),
        ]
    )
    assert [line.partition("| ")[2] for line in lines[:-1]] == ["a  (0.10 s behind)", "b c"]


def test_a_second_without_words_has_a_line_too_and_an_offline_answer_one_for_all():
    watched = [Watched(step, step + 0.5, step + 0.6) for step in range(4)]
    lines = shown([*watched, word(3, " all", 5.0)])
    assert [line.split("+")[2].split()[0] for line in lines[:-1]] == ["-", "-", "-", "1.50"]
    assert lines[-1].startswith("kept up in 3 of 3 seconds")
    assert shown([*watched, word(3, " all", 5.0)], step_s=4.0)[-1].startswith("kept up in 3 of 3 steps of 4 s;")
    silent = shown(watched)
    assert len(silent) == 5 and silent[0].endswith("word +     - |")


def test_watching_alone_can_fall_behind():
    assert "(1.00 s behind)" in shown([Watched(0, 0.5, 2.5), Watched(1, 1.5, 2.6), word(1, " x", 2.7)])[0]


def test_a_notice_stands_on_a_line_of_its_own_and_the_words_go_on_below_it():
    out = io.StringIO()
    events = [Watched(0, 0.5, 0.6), word(0, " a", 0.75), "paused", word(0, " dog", 2.0), "resumed"]
    events += [Watched(1, 1.5, 2.1), word(1, " runs", 2.2)]
    list(show_lag(events, 1.0, out, notice=lambda event: event if isinstance(event, str) else None))
    assert out.getvalue().splitlines()[1:-1] == [
        "seen 0-1   s  watched +  0.10  word +  0.25 | a",
        "  [paused]",
        "  ... dog",
        "  [resumed]",
        "  ...  (0.50 s behind)",
        "seen 0-2   s  watched +  0.60  word +  0.70 | runs",
    ]


def test_a_stream_that_was_stopped_before_anything_was_seen_has_no_seconds():
    assert shown([]) == ["kept up in 0 of 0 seconds"]
