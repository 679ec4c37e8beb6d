"""The toy world: what is drawn, what is said about it, and how sayings are scored."""

import numpy as np
import pytest

from swwatch.toy.levels import LEVELS, MIXTURES, WORLDS
from swwatch.toy.world import (
    BACKGROUND,
    COLORS,
    DIRECTIONS,
    MARGIN,
    SHAPES,
    SIDE,
    SceneEvent,
    make_scene,
    parse_caption,
    render,
)

SEED = 7
levels = pytest.mark.parametrize("level", LEVELS)


def scenes(level, split="train", num=40):
    return [make_scene(SEED, index, level=level, split=split) for index in range(num)]


def shape_pixels(frame):
    """(H, W) bool: what is not background."""
    return (frame != BACKGROUND).any(-1)


@levels
def test_a_scene_is_decided_by_its_arguments(level):
    first = make_scene(3, 5, level=level)
    assert first == make_scene(3, 5, level=level)
    others = [
        make_scene(4, 5, level=level),
        make_scene(3, 6, level=level),
        make_scene(3, 5, level=level, split="test"),
    ]
    assert first not in others


def test_captions_of_the_splits_never_meet_whatever_the_seeds():
    """Left to chance about 7 of these would: 1,300 and 500 have three events, and there are 93,000 such captions."""
    train = {make_scene(seed, i).caption for seed in range(4) for i in range(1000)}
    test = {make_scene(seed, i, split="test").caption for seed in range(5) for i in range(300)}
    assert not train & test
    assert len(train) > 3800 and len(test) > 1400


@levels
def test_scenes_last_5_to_30_s_with_events_back_to_back(level):
    rule, counts = LEVELS[level], set()
    for scene in scenes(level):
        starts = [event.start_s for event in scene.events[:: rule.shapes_at_once]]
        assert starts == [i * rule.event_s for i in range(len(starts))]
        assert all(event.end_s - event.start_s == rule.event_s for event in scene.events)
        assert 5 <= scene.duration_s == len(starts) * rule.event_s <= 30
        counts.add(len(starts))
    assert min(counts) == rule.num_events[0] and len(counts) >= 3


@levels
def test_words_come_at_3_to_5_a_second(level):
    for scene in scenes(level):
        words = scene.caption.replace(",", " ,").replace(".", " .").split()
        assert 3 <= len(words) / scene.duration_s <= 5
        if level not in ("recolor", "wordy"):
            assert len(words) == 3 + 3 * scene.duration_s


@levels
def test_every_word_of_the_world_occurs_and_neighbours_differ(level):
    events = [scene.events for scene in scenes(level)]
    seen = {word for scene in events for e in scene for word in (e.color, e.shape, e.direction)}
    assert seen == {*COLORS, *SHAPES, *DIRECTIONS}
    step = LEVELS[level].shapes_at_once
    for scene in events:
        for before, after in zip(scene, scene[step:], strict=False):
            assert (before.color, before.shape) != (after.color, after.shape)


def without_times(event):
    return SceneEvent(event.color, event.shape, event.direction, event.new_color)


@levels
def test_a_caption_parses_back_to_its_events(level):
    for scene in scenes(level):
        assert parse_caption(scene.caption) == [without_times(event) for event in scene.events]


@levels
def test_a_record_holds_the_events(level):
    scene = make_scene(SEED, 0, level=level)
    assert [SceneEvent(**values) for values in scene.record()] == scene.events


@levels
def test_the_picture_shows_what_the_caption_says(level):
    """Found back from pixels alone: color by mean, direction by the centre's way, shape by how full its box is."""
    for scene in scenes(level, num=12):
        for track in scene.tracks:
            event, columns = track.event, slice(track.panel * SIDE, (track.panel + 1) * SIDE)
            times = event.start_s + (event.end_s - event.start_s) * np.array([0.0, 0.3, 0.7, 0.999])
            frames = [render(scene, t)[:, columns] for t in times]
            centres, fills = [], []
            for frame, wanted in zip(frames, [event.color] * 2 + [event.new_color or event.color] * 2, strict=True):
                inside = shape_pixels(frame)
                color = frame[inside].mean(0)
                assert min(COLORS, key=lambda name: np.abs(color - COLORS[name]).sum()) == wanted
                y, x = np.nonzero(inside)
                assert 0 < y.min() and y.max() < SIDE - 1 and 0 < x.min() and x.max() < SIDE - 1  # nothing is cut off
                centres.append((x.mean(), y.mean()))
                fills.append(inside.sum() / ((np.ptp(y) + 1) * (np.ptp(x) + 1)))
            way = np.subtract(centres[-1], centres[0])
            assert tuple(np.round(way / np.abs(way).max())) == DIRECTIONS[event.direction]
            assert np.abs(way).max() >= 0.95 * (SIDE - 2 * MARGIN) >= SIDE / 3
            likely = {"triangle": 0.5, "circle": np.pi / 4, "square": 1.0}
            assert min(likely, key=lambda name: abs(likely[name] - np.mean(fills))) == event.shape


def test_frames_have_the_levels_size_and_stay_put_outside_the_scene():
    for level, size in (("single", (56, 56)), ("pair", (56, 112))):
        scene = make_scene(SEED, 1, level=level)
        assert scene.size == size and render(scene, 0).shape == (*size, 3) and render(scene, 0).dtype == np.uint8
        assert np.array_equal(render(scene, -1), render(scene, 0))
        assert np.array_equal(render(scene, scene.duration_s), render(scene, scene.duration_s + 9))
        assert shape_pixels(render(scene, scene.duration_s)).any()


def test_one_event_ends_where_the_next_begins():
    scene = make_scene(SEED, 2)
    first, second = (COLORS[event.color] for event in scene.events[:2])
    assert first in {tuple(pixel) for pixel in render(scene, 1.999).reshape(-1, 3)}
    assert second in {tuple(pixel) for pixel in render(scene, 2.0).reshape(-1, 3)}


@pytest.mark.parametrize(
    "text",
    [
        "The video shows a red circle moving left",
        "the video shows a red circle moving left.",
        "The video shows a pink circle moving left.",
        "The video shows a red circle moving left,, a blue square moving up.",
        "The video shows a red circle moving left. And more.",
        "The video shows.",
    ],
)
def test_other_texts_do_not_parse(text):
    assert parse_caption(text) is None


def test_wordy_directions_take_more_or_fewer_words_and_mean_the_same():
    counts = {e.direction: len(e.words().split()) for scene in scenes("wordy") for e in scene.events}
    assert counts == {"left": 5, "right": 7, "up": 6, "down": 5}
    plain = "The video shows a red circle moving right, a blue square moving up."
    wordy = "The video shows a red circle moving to the right, a blue square moving straight up."
    assert parse_caption(plain) == parse_caption(wordy)
    assert parse_caption("The video shows a red circle moving straight right.") is None


@pytest.mark.parametrize("mixture", MIXTURES)
def test_a_mixture_draws_its_levels_evenly_and_the_same_scene_as_the_level_itself(mixture):
    drawn = [make_scene(SEED, index, level=mixture) for index in range(200)]
    counts = {level: sum(scene.level == level for scene in drawn) for level in MIXTURES[mixture]}
    assert sum(counts.values()) == 200 and min(counts.values()) > 20
    assert drawn[0] == make_scene(SEED, 0, level=drawn[0].level)


@pytest.mark.parametrize("level", WORLDS)
def test_a_world_pauses_as_its_row_says_and_shows_nothing_meanwhile(level):
    rule = WORLDS[level]
    for scene in scenes(level, num=1 if level == "ten_minutes" else 4):
        events = scene.events
        pauses = [after.start_s - before.end_s for before, after in zip(events, events[1:], strict=False)]
        assert events[0].start_s == 0 and rule.num_events[0] <= len(events) <= rule.num_events[1]
        assert all(event.end_s - event.start_s == rule.event_s for event in events)
        assert all(rule.pause_s[0] <= pause <= rule.pause_s[1] for pause in pauses)
        for event, pause in zip(events, pauses, strict=False):
            assert bool(shape_pixels(render(scene, event.end_s)).any()) == (pause == 0)
        assert parse_caption(scene.caption) == [without_times(event) for event in events]


def test_worlds_last_as_long_as_they_are_meant_to():
    spans = {level: [s.duration_s for s in scenes(level, num=10)] for level in ("basics", "still", "count")}
    assert 2 <= min(spans["basics"]) and max(spans["basics"]) <= 10
    assert 40 < np.mean(spans["count"]) < 70 and 30 < np.mean(spans["still"]) < 90
    assert make_scene(SEED, 0, level="ten_minutes").duration_s == 600


def test_levels_of_before_are_the_same_beside_the_worlds():
    """Seeds of a level go by its place among the levels: a world must not move it."""
    scene = make_scene(0, 0, level="wordy")
    assert scene.caption == (
        "The video shows a green triangle moving left, a yellow square moving to the right, a blue triangle moving "
        "straight up, a green circle moving left."
    )
