"""The matcher of the toy world: whole captions, broken ones, and captions with one fault."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.metrics.events import Mention
from swwatch.metrics.timing import summarize
from swwatch.toy.levels import LEVELS
from swwatch.toy.mentions import Phrase, align, find_phrases, mentions
from swwatch.toy.world import make_scene

scenes = st.builds(make_scene, st.integers(0, 50), st.integers(0, 50), level=st.sampled_from(sorted(LEVELS)))
RED = {"color": "red", "shape": "circle", "direction": "left"}
BLUE = {"color": "blue", "shape": "square", "direction": "up"}
GREEN = {"color": "green", "shape": "triangle", "direction": "down"}


def told(text, events):
    return [(mention.event, mention.repeat) for mention in mentions(list(text), events)]


def pieces_of(text, seed):
    """The text cut at arbitrary places, as tokens of a BPE are."""
    cuts = sorted(random.Random(seed).sample(range(1, len(text)), min(20, len(text) - 1)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(scenes, st.integers(0, 9))
def test_a_right_caption_tells_every_event_once_wherever_its_tokens_are_cut(scene, seed):
    pieces = pieces_of(scene.caption, seed)
    found = mentions(pieces, scene.record())
    assert [(m.event, m.repeat) for m in found] == [(i, False) for i in range(len(scene.events))]
    at = 0
    for mention, event in zip(found, scene.events, strict=True):
        at = scene.caption.index(event.direction, scene.caption.index(event.words(), at)) + len(event.direction)
        ends = [len("".join(pieces[: i + 1])) for i in range(len(pieces))]
        assert mention.token == next(i for i, end in enumerate(ends) if end >= at)


def test_a_mention_ends_with_the_token_that_holds_its_last_letter():
    pieces = ["The video shows a", " red", " cir", "cle", " moving", " le", "ft", ",", " a blue square", " moving up."]
    assert mentions(pieces, [RED, BLUE]) == [Mention(6, 0), Mention(9, 1)]


@given(scenes, st.data())
def test_a_left_out_event_is_the_only_one_missed(scene, data):
    events = scene.events
    gone = data.draw(st.integers(0, len(events) - 1))
    text = ", ".join(event.words() for i, event in enumerate(events) if i != gone)
    found = [event for event, repeat in told(text, scene.record()) if event is not None and not repeat]
    assert len(found) == len(events) - 1
    alike = [i for i, e in enumerate(events) if (e.color, e.shape) == (events[gone].color, events[gone].shape)]
    assert set(range(len(events))) - set(found) <= set(alike)


@given(scenes, st.data())
def test_an_event_told_twice_in_a_row_is_a_repeat_at_its_second_place(scene, data):
    events = scene.events
    twice = data.draw(st.integers(0, len(events) - 1))
    text = ", ".join(event.words() for i, event in enumerate(events) for _ in range(1 + (i == twice)))
    found = told(text, scene.record())
    assert [event for event, repeat in found if not repeat] == list(range(len(events)))
    assert [event for event, repeat in found if repeat] != [] and len(found) == len(events) + 1


def test_broken_text_is_read_as_far_as_it_goes():
    text = "The a moving a blue triangle moving up moving left, red moving circle, moving"
    assert find_phrases(text) == [
        Phrase("blue", "triangle", "up", end=text.index("up") + 2),
        Phrase("red", "circle", end=text.index("circle") + 6),
    ]
    assert find_phrases("turning red and moving, moving.") == [Phrase("red", end=11)]
    assert find_phrases("") == find_phrases("a circle moving left") == []


def test_the_colour_behind_turning_belongs_to_the_phrase():
    (phrase,) = find_phrases("a red circle turning blue moving left")
    assert (phrase.color, phrase.new_color, phrase.direction) == ("red", "blue", "left")
    two = find_phrases("a red circle turning a blue square moving up")
    assert [(p.color, p.new_color) for p in two] == [("red", None), ("blue", None)]


def test_a_wrong_direction_still_tells_the_event_and_the_right_one_is_preferred():
    assert told("a red circle moving up", [RED]) == [(0, False)]
    assert told("a red circle moving up, a red circle moving left", [RED]) == [(0, True), (0, False)]
    assert told("a red square moving left", [RED]) == [(None, False)]


def test_order_counts_and_what_is_out_of_order_tells_nothing():
    assert told("a blue square, a green triangle, a red circle", [RED, BLUE, GREEN]) == [
        (1, False),
        (2, False),
        (None, False),
    ]


def test_as_many_events_as_possible_are_told():
    phrases = find_phrases("a red circle up, a blue square down, a green triangle left, a red circle left")
    assert align(phrases, [RED, BLUE, GREEN]) == [0, 1, 2, None]


@pytest.mark.parametrize("text, events", [("", [RED]), ("a red circle", []), ("", [])])
def test_nothing_to_align(text, events):
    assert not any(event is not None for event, _ in told(text, events))


def test_events_of_another_kind_are_told_by_nothing():
    assert told("a red circle", [{"start_s": 0, "end_s": 1}]) == [(None, False)]


def test_it_is_the_matcher_of_the_timing_metrics():
    scene = make_scene(1, 1)
    words = [" " + word for word in scene.caption.split()]
    trace = [
        {
            "step": i // 3,
            "newest_visible_step": i // 3,
            "t_frame_s": i // 3 + 0.5,
            "t_emit_s": i / 3 + 0.6,
            "text": word,
        }
        for i, word in enumerate(words)
    ]
    records = {"a": {"human_caption": scene.caption, "events": scene.record()}}
    events = summarize({"a": trace}, records, mentions)["events"]
    assert events["coverage"] == 1 and events["redundancy"] == events["unfounded"] == 0
    first = words.index(next(word for word in words if word.strip(" ,") == scene.events[0].direction))
    assert summarize({"a": trace}, records, mentions)["per_clip"]["a"]["events"]["told_s"][0] == first / 3 + 0.6
