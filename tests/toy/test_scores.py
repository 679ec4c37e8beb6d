"""How toy narrations are scored: by position, by alignment, as language."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.toy.scores import MEANING, clip_counts, score_caption, toy_events, toy_scores
from swwatch.toy.world import COLORS, DIRECTIONS, SHAPES, SceneEvent, make_scene, parse_caption

RED, BLUE = SceneEvent("red", "circle", "left"), SceneEvent("blue", "square", "up")


@pytest.mark.parametrize(
    "text, color, shape, direction, count, parses",
    [
        ("The video shows a red circle moving left, a blue square moving up.", 1, 1, 1, True, True),
        ("The video shows a red circle moving left, a blue square moving down.", 1, 1, 0.5, True, True),
        ("The video shows a blue square moving up, a red circle moving left.", 0, 0, 0, True, True),  # order counts
        ("The video shows a red circle moving left.", 0.5, 0.5, 0.5, False, True),
        ("The video shows a red circle moving left, a blue square", 1, 1, 0.5, True, False),
        ("a red moving moving left, blue a a square", 1, 0.5, 0.5, True, False),
        ("a red blue circle square left up", 0.5, 0.5, 0.5, False, False),  # one piece answers for one event
        (
            "The video shows a red circle moving left, a blue square moving up, a red circle moving up.",
            1,
            1,
            1,
            False,
            True,
        ),
        ("", 0, 0, 0, False, False),
        ("The video shows .", 0, 0, 0, False, False),
        ("THE VIDEO SHOWS A RED CIRCLE MOVING LEFT, A BLUE SQUARE MOVING UP!", 1, 1, 1, True, False),
        ("redcircle, bluesquare", 0, 0, 0, True, False),
    ],
)
def test_scores_worked_by_hand(text, color, shape, direction, count, parses):
    wanted = {"color": color, "shape": shape, "direction": direction, "count": count, "parses": parses}
    assert score_caption(text, [RED, BLUE]) == wanted


def test_a_new_color_must_be_told_as_one():
    event = SceneEvent("red", "circle", "left", new_color="blue")
    assert score_caption("The video shows a red circle turning blue moving left.", [event])["new_color"] == 1
    assert score_caption("The video shows a red blue circle moving left.", [event])["new_color"] == 0
    assert score_caption("The video shows a blue circle turning", [event]) == {
        **{"color": 0, "shape": 1, "direction": 0, "new_color": 0},
        **{"count": True, "parses": False},
    }


words = st.sampled_from([*COLORS, *SHAPES, *DIRECTIONS, ",", "and", "a", "moving", "turning", ".", "The video shows"])


@given(st.one_of(st.text(), st.lists(words).map(" ".join)))
def test_any_text_can_be_scored(text):
    scores = score_caption(text, [RED, BLUE])
    assert all(0 <= value <= 1 for value in scores.values())
    parsed = parse_caption(text)
    assert scores["parses"] == (parsed is not None)
    assert score_caption(text, [])["color"] == 0
    for part, whole in clip_counts(text, [RED, BLUE]).values():
        assert 0 <= part <= whole


def shares(text, events=(RED, BLUE)):
    return toy_scores([(text, events)])


def test_what_was_never_told_costs_coverage_and_not_precision():
    got = shares("The video shows a blue square moving up.")
    assert (got["told"], got["true"], got["told_direction"], got["right"]) == (0.5, 1, 1, 0.5)
    assert got["color"] == 0  # by position the one lost phrase makes all later ones wrong


def test_what_was_told_wrongly_costs_precision():
    got = shares("The video shows a red circle moving down, a green square moving up.")
    assert (got["told"], got["true"], got["told_direction"], got["right"]) == (0.5, 0.5, 0, 0)


def test_order_counts_in_the_alignment():
    assert shares("The video shows a blue square moving up, a red circle moving left.")["told"] == 0.5


@pytest.mark.parametrize(
    "text, broken, repeats",
    [
        ("The video shows a red circle moving left, a blue square moving up.", 0, 0),
        ("The video shows a red circle moving to the right, a blue square moving straight up.", 0, 0),
        ("The video shows a red a circle moving left, a blue square moving up.", 0.5, 0),
        ("The video shows a a red circle moving left.", 1, 1),
        ("The video shows a red circle moving left, a red circle moving left.", 0, 1),
        ("The video shows a red circle moving left, a red", 0.5, 0),
    ],
)
def test_language_is_judged_whatever_it_tells(text, broken, repeats):
    got = shares(text)
    assert (got["broken"], got["repeats"]) == (broken, repeats)


def test_shares_pool_over_events_and_phrases_not_over_clips():
    clips = [("The video shows a red circle moving left.", [RED]), ("The video shows", [BLUE, RED, BLUE])]
    got = toy_scores(clips)
    assert (got["num_clips"], got["num_events"], got["told"], got["true"]) == (2, 4, 0.25, 1)
    assert "told_direction" not in toy_scores(clips[1:])  # nothing was told: there is no share of nothing


def test_every_share_has_a_meaning_and_a_perfect_text_all_of_them():
    for level in ("single", "pair", "recolor", "wordy", "long"):
        scene = make_scene(3, 1, level=level)
        got = toy_scores([(scene.caption, scene.events)])
        wanted = {
            name: name not in ("broken", "repeats") for name in MEANING if name != "new_color" or level == "recolor"
        }
        assert {name: got[name] for name in got if not name.startswith("num_")} == wanted


def test_records_of_other_data_sets_have_no_toy_events():
    scene = make_scene(0, 0)
    assert toy_events({"events": scene.record()}) == scene.events
    assert toy_events({"events": ["goal"]}) == toy_events({"events": "none"}) == toy_events({}) == []


def test_toy_scores_weighs_by_event_and_counts_clips():
    red, blue = SceneEvent("red", "circle", "left"), SceneEvent("blue", "square", "up")
    right = "The video shows a red circle moving left, a blue square moving up, a red circle moving left."
    wrong = "The video shows a red square moving down."
    got = toy_scores([(right, [red, blue, red]), (wrong, [red])])
    assert (got["num_clips"], got["num_events"]) == (2, 4)
    assert (got["color"], got["shape"], got["direction"]) == (1.0, 0.75, 0.75)
    assert (got["count"], got["parses"]) == (1.0, 1.0)
