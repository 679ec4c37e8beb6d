"""What a model is shown and asked, and which choice it takes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swwatch.data.budget import PixelBudget
from swwatch.data.stills import read_picture
from swwatch.data.video import VideoError, VideoFrames, read_clip, steps_of
from swwatch.errors import UserError
from swwatch.evaluate.quiz import frames, streaming, tasks
from swwatch.evaluate.quiz.asking import Plain, choice_tokens, choose
from swwatch.evaluate.quiz.items import Item
from swwatch.evaluate.quiz.streaming import Streaming
from swwatch.rules import turn_positions as positions
from swwatch.rules.families import FAMILIES, t_step
from swwatch.rules.spans import Part, Span
from tests.helpers.turn_streams import forward

SMALL = PixelBudget("small", min_pixels=3136, total_pixels=20 * 3136)
LIVE = PixelBudget("live", min_pixels=3136, max_pixels=3136)
TASK = tasks.get("livesports").form()
ITEM = Item("k", "v", ("v.mp4",), "What colour?\nA. red\nB. blue", ("A", "B"), "A", "g", end_s=4.0)


@pytest.fixture
def show(monkeypatch):
    """show(frames (2n, H, W, 3)): from now on every video consists of these."""

    def be(pictures: np.ndarray) -> None:
        clip = VideoFrames(pictures, len(pictures) / 2)
        for module in (frames, streaming):
            monkeypatch.setattr(module, "iter_steps", lambda path, max_frames, fps: steps_of(clip))

    return be


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 56, 56, 3), dtype=np.uint8)


def asker(loaded, kind) -> Plain | Streaming:
    return kind(loaded, TASK, LIVE if kind is Streaming else SMALL)


def answers(loaded, kind, items: list[Item]) -> dict[str, object]:
    made = asker(loaded, kind)
    return {item.key: got for unit in made.units(items) for item, got in made.answers(unit, Path("a video"))}


# ---- choices --------------------------------------------------------------------------------------------------------


class Words:
    """A tokenizer with a token for every letter, with and without a space before it, as Qwen's has."""

    def __init__(self, known: str):
        self.known = {}
        for letter in known:
            self.known |= {letter: len(self.known), f" {letter}": len(self.known) + 1}

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        ids = []
        while text:
            piece = text[:2] if text[:2] in self.known else text[:1]
            ids.append(self.known.get(piece, 1000 + ord(piece[0])))
            text = text[len(piece) :]
        return ids


def test_letters_have_a_space_before_them_after_answer_and_none_after_a_line_end():
    tokenizer = Words("ABCDE")
    beginning, spaced = choice_tokens(tokenizer, TASK, ("A", "B"))
    assert spaced == {"A": tokenizer.known[" A"], "B": tokenizer.known[" B"]}
    assert list(beginning) == tokenizer.encode("Answer:", False)
    beginning, bare = choice_tokens(tokenizer, tasks.get("ovobench").form(), ("A", "B"))
    assert bare == {"A": tokenizer.known["A"], "B": tokenizer.known["B"]}
    assert list(beginning) == tokenizer.encode("The answer is:\n", False)


def test_what_all_choices_begin_with_is_read_before_they_are_told_apart():
    tokenizer = Words("XY")  # no token for " A": a space, then the letter
    beginning, tokens = choice_tokens(tokenizer, TASK, ("A", "B"))
    assert list(beginning) == tokenizer.encode("Answer: ", False)
    assert tokens == {"A": 1000 + ord("A"), "B": 1000 + ord("B")}
    with pytest.raises(UserError, match="no token of its own"):
        choice_tokens(tokenizer, TASK, ("Yes", "Yet", "No"))


@given(st.lists(st.floats(-5, 5, width=32), min_size=8, max_size=8), st.integers(2, 5))
def test_the_choice_is_the_best_of_those_that_exist(values, count):
    logits, tokens = torch.tensor(values), {letter: i for i, letter in enumerate("ABCDE"[:count])}
    said = choose(logits, tokens, 2, (0, 1)).said
    assert said == "ABCDE"[int(np.argmax(values[:count]))]  # of equal ones the first; tokens behind them never count


# ---- frames ---------------------------------------------------------------------------------------------------------


@given(st.floats(0, 100), st.floats(0.01, 100), st.integers(1, 300), st.integers(2, 50))
def test_frames_are_a_spread_of_the_grid_times_in_the_span(start_s, length_s, num_grid, most):
    end_s = start_s + length_s
    first, last = frames.grid_span(start_s, end_s, num_grid)
    inside = [i for i in range(num_grid) if start_s - 1e-6 <= i / 2 < end_s - 1e-6]
    assert list(range(first, last)) == inside
    if inside:
        taken = frames.spread(first, last, most).tolist()
        assert taken == sorted(set(taken)) and len(taken) == min(most, len(inside))
        assert taken[0] == inside[0] and taken[-1] == inside[-1]


def test_frames_of_a_file_are_those_of_the_one_sampler(quiz, videos_of):
    item = tasks.get("videomme").items(quiz["videomme"])[0]
    path = item.locate(videos_of("videomme"))
    whole = read_clip(path).frames
    assert np.array_equal(frames.read_shown(item, path, 480).frames, whole)
    part = frames.read_shown(replace(item, start_s=1.0, end_s=3.25), path, 480)
    assert np.array_equal(part.frames, whole[[2, 3, 4, 5, 6, 6]]) and part.seconds_per_patch == 1  # an odd one twice
    few = frames.read_shown(item, path, 4)
    assert np.array_equal(few.times_s, np.round(np.linspace(0, len(whole) - 1, 4)) / 2)
    assert few.seconds_per_patch == pytest.approx(2 * few.times_s[-1] / 3)
    slow = frames.read_shown(item, path, 480, fps=1)
    assert np.array_equal(slow.frames[:-1], whole[::2][: len(slow.frames) - 1]) and slow.seconds_per_patch == 2
    spread, clip = frames.read_shown(item, path, 480, nframes=4), read_clip(path, fps=50, max_frames=None)
    assert np.array_equal(spread.frames[0], whole[0]) and np.array_equal(spread.frames[-1], clip.frames[-1])
    assert len(spread.frames) == 4 and spread.seconds_per_patch == pytest.approx(2 * clip.duration_s / 4)
    with pytest.raises(VideoError, match="no frame between 90 and"):
        frames.read_shown(replace(item, start_s=90.0), path, 480)
    brief = frames.read_shown(replace(item, start_s=3.0, end_s=3.0), path, 480)
    assert brief.times_s.tolist() == [2.0, 2.5]  # the last second before the question


@pytest.mark.parametrize("how", [{"max_frames": 480}, {"max_frames": 5}, {"max_frames": 480, "nframes": 4}], ids=str)
def test_frames_that_shrink_one_by_one_are_those_that_shrink_together(load_tiny, quiz, videos_of, how):
    made = Plain(load_tiny("origin"), TASK, PixelBudget("smaller", 784, 784))
    item = tasks.get("videomme").items(quiz["videomme"])[0]
    path = item.locate(videos_of("videomme"))
    full, small = frames.read_shown(item, path, **how), frames.read_shown(item, path, **how, shrink=made._small)
    assert small.frames.nbytes < full.frames.nbytes and len(small.frames) == len(full.frames)
    want = made.encoder.encode(full.frames, len(full.frames))
    assert all(map(torch.equal, made.encoder.encode(small.frames, len(small.frames)), want))


def test_a_folder_of_pictures_is_shown_as_a_video_of_its_rate(quiz, videos_of):
    items = tasks.get("mvbench").items(quiz["mvbench"])
    item = next(item for item in items if item.frames_per_second)
    path = item.locate(videos_of("mvbench"))
    shown = frames.read_shown(replace(item, start_s=0.0, end_s=2.0), path, 480)
    names = sorted(path.iterdir())
    assert [name.name for name in names[:2]] == ["00001.jpg", "00002.jpg"]
    want = [read_picture(names[i]) for i in (0, 1, 3, 4)]  # on display at 0, 0.5, 1 and 1.5 s
    assert np.array_equal(shown.frames, np.stack(want))


# ---- what reaches the model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end_s", [2.0, 4.0, 5.5])
@pytest.mark.parametrize(("kind", "system"), [(Plain, "origin"), (Streaming, "livecc"), (Streaming, "streamingvlm")])
def test_nothing_after_the_cut_reaches_the_model(load_tiny, show, kind, system, end_s):
    loaded, item = load_tiny(system), replace(ITEM, end_s=end_s)
    pictures, other = noise(16), noise(16, seed=1)
    cut = int(2 * end_s)
    later = np.concatenate([pictures[:cut], other[cut:]])
    show(pictures)
    told = answers(loaded, kind, [item])["k"]
    show(np.concatenate([later, other]))  # longer, too
    assert answers(loaded, kind, [item])["k"] == told
    show(pictures[: cut + 1])
    assert answers(loaded, kind, [item])["k"] == told
    first = pictures.copy()
    first[0] = other[0]
    show(first)
    assert answers(loaded, kind, [item])["k"].logits != told.logits


def test_whole_clips_are_asked_by_one_forward_at_stated_positions(load_tiny, show):
    loaded = load_tiny("origin")
    made = asker(loaded, Plain)
    show(noise(8))
    shown = frames.read_shown(ITEM, Path("v"), 480)
    logits, _ = made.logits(ITEM, shown)
    pixels, grid = made.encoder.encode(shown.frames, 8)
    video = loaded.model.watch_video(pixels, grid)
    rows, columns = int(grid[0, 1]) // 2, int(grid[0, 2]) // 2
    spans = [*made.turns.begin(), *made.turns.plain_turn(0, [(4, rows, columns), ITEM.prompt])]
    spans.append(Span(Part.ANSWER, choice_tokens(loaded.tokenizer, TASK, ITEM.choices)[0], None, 0))
    expected = forward(loaded, spans, "mrope_full", [video])[-1]
    assert torch.allclose(logits, expected, atol=1e-4)
    flat = Plain(loaded, TASK, SMALL, "flat_1d").logits(ITEM, shown)[0]
    assert torch.allclose(flat, forward(loaded, spans, "flat_1d", [video])[-1], atol=1e-4)
    assert not torch.allclose(flat, logits, atol=1e-3)


def test_patches_further_apart_stand_further_apart_in_time(load_tiny):
    config = load_tiny("origin").model.config
    step = t_step(config, 1.25)
    where, end = positions.get("mrope_full").place([Span(Part.VIDEO, (1,) * 5, (5, 1, 1), 0)], 3, step)
    assert where[0].tolist() == [3, 5, 8, 10, 13] and end == 14  # rounded down: 2.5 positions a patch
    assert t_step(config) == 2 and isinstance(t_step(config), int)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers(tmp_path, show, family):
    from swwatch.model.loading import load
    from swwatch.toy.checkpoint import make_checkpoint

    sizes = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "vision_depth": 1, "vision_hidden": 32}
    folder = make_checkpoint(tmp_path / family, family=family, **sizes)
    show(noise(8))
    for kind, variant in ((Plain, "origin"), (Streaming, "livecc")):
        got = answers(load(folder, variant=variant, device="cpu"), kind, [ITEM])["k"]
        assert got.said in ITEM.choices and got.num_frames == 8 and got.seconds == (0, 4)


# ---- streams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["livecc", "streamingvlm"])
def test_questions_on_one_stream_get_the_answers_that_each_gets_alone(load_tiny, show, system):
    loaded = load_tiny(system)
    show(noise(20))
    ends = {"a": 9.0, "b": 2.0, "c": 4.5, "d": 4.0, "e": None}
    items = [replace(ITEM, key=key, end_s=end_s, prompt=f"What? {key}") for key, end_s in ends.items()]
    together = answers(loaded, Streaming, items)
    assert list(together) == ["b", "d", "c", "a", "e"]
    for item in items:
        assert together[item.key] == answers(loaded, Streaming, [item])[item.key]
    assert together["c"].seconds == (0, 4) and together["e"].seconds == (0, 10)


def test_a_stream_looks_at_each_second_once_however_many_questions_there_are(load_tiny, show, monkeypatch):
    loaded, looks = load_tiny("streamingvlm"), []
    real = loaded.model.watch_video
    monkeypatch.setattr(loaded.model, "watch_video", lambda *args: looks.append(1) or real(*args))
    show(noise(12))
    answers(loaded, Streaming, [replace(ITEM, key=str(end_s), end_s=float(end_s)) for end_s in (2, 3, 5)])
    assert len(looks) == 5


def test_a_question_is_asked_about_what_the_stream_has_in_view(load_tiny, show):
    """Streamed without forgetting, the answer is that of one forward over the conversation."""
    loaded = load_tiny("livecc")
    made = Streaming(loaded, TASK, LIVE)
    show(noise(10))
    seen = []
    real = made._drive

    def drive(run):
        seen.append(run)
        return real(run)

    made._drive = drive
    got = dict(made.answers([ITEM], Path("v")))[ITEM]
    turns = loaded.turns(made.system)
    mute = (*turns.ellipsis, turns.im_end)
    videos = [loaded.model.watch_video(*made.encoder.encode(noise(10)[2 * k : 2 * k + 2], 10)) for k in range(4)]
    grid = (videos[0].shape[0] // 2, 2)
    spans = [*turns.begin(), *turns.turn(0, 0.0, 3.0, (3, *grid)), Span(Part.ANSWER, mute, None, 0), turns.close(0)]
    spans += [*turns.turn(1, 3.0, 4.0, (1, *grid)), Span(Part.ANSWER, mute, None, 1), turns.close(1)]
    spans += turns.turn(2, 4.0, 4.0, None, ITEM.prompt)
    spans.append(Span(Part.ANSWER, choice_tokens(loaded.tokenizer, TASK, ITEM.choices)[0], None, 2))
    logits = forward(loaded, spans, "mrope_full", videos)[-1]
    assert len(seen) == 4 + 2, "steps, and on the copy the turn that is cut short and the question"
    for choice, token in got.tokens.items():
        assert got.logits[choice] == pytest.approx(float(logits[token]), abs=1e-4)


def test_what_a_stream_cannot_do_is_told(load_tiny, show):
    with pytest.raises(UserError, match="does not stream in turns"):
        asker(load_tiny("origin"), Streaming)
    made = asker(load_tiny("livecc"), Streaming)
    with pytest.raises(UserError, match="folder of pictures is no stream"):
        made.units([replace(ITEM, frames_per_second=3.0)])
    show(noise(8))
    early = replace(ITEM, key="early", end_s=0.5)
    got = answers(load_tiny("livecc"), Streaming, [ITEM, early])
    assert "before the first step" in str(got["early"]) and got["k"].said in ITEM.choices
