"""Conversations over real clips as samples: what is read, counted, packed and left out."""

import numpy as np
import pytest
import torch
from PIL import Image

from swwatch.data.annotations import seeks_file
from swwatch.data.collator import Collator
from swwatch.data.lengths import lengths_of
from swwatch.data.prompt import IGNORED
from swwatch.data.samples import Sample, Skip
from swwatch.data.turns.dataset import training_budget
from swwatch.data.video import VideoError, read_clip
from swwatch.rules.layout import Kind
from swwatch.rules.systems import SYSTEMS
from swwatch.train.held_out import HeldOut
from tests.helpers.conversations import chat, commentary, dataset, talk, write
from tests.helpers.small_clips import write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two videos, an image, and what is said of them."""
    folder = tmp_path_factory.mktemp("talks")
    write_video(folder / "clips" / "a.mp4", 12, seed=1)
    write_video(folder / "clips" / "b.mp4", 4, seed=2)
    Image.fromarray(np.random.default_rng(3).integers(0, 255, (56, 84, 3), dtype=np.uint8)).save(folder / "c.png")
    write(
        folder / "said.jsonl",
        [
            commentary("clips/a.mp4", 2.0, 8.0, talk(2, 8), previous="he was here", title="Shapes"),
            commentary("clips/a.mp4", 6.5, 12.0, talk(6.5, 9), asked=[[7, 8.2, "Which?", "The red one."]]),
            chat("clips/b.mp4", "What is it?", "A circle."),
            chat("c.png", "What is shown?", "Noise.", kind="image"),
        ],
    )
    return folder


@pytest.fixture(params=["streamingvlm", "livecc"])
def system(request):
    return request.param


def gradients_of(model, batches, total):
    model.zero_grad()
    losses = [model(**batch, num_items_in_batch=total).loss for batch in batches]
    sum(losses).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return sum(losses).item(), gradients


def test_an_odd_last_half_second_makes_a_turn_of_a_second_that_stands_still(load_tiny, tmp_path):
    """As livecc-utils pads its strict frames: without it the words of every other clip's end would be lost."""
    loaded = load_tiny("livecc")
    write_video(tmp_path / "a.mp4", 6, seed=1)
    said = [commentary("a.mp4", 0.0, 4.5, [[0, 0.4, "first"], [4.1, 4.4, "last"]])]
    clips = dataset(loaded, write(tmp_path / "said.jsonl", said))
    sample = clips[0, 0].sample
    text = loaded.tokenizer.decode(sample.input_ids)
    assert "Time=4.0-5.0s" in text and text.endswith("last ...<|im_end|>")
    assert clips.measure(clips.records[0])[0] == 10 and sample.video_grid_thw[0, 0] == 5
    rows = sample.pixel_values[-len(sample.pixel_values) // 5 :].view(-1, 3, 2, 14, 14)
    assert torch.equal(rows[:, :, 0], rows[:, :, 1])


@pytest.mark.parametrize("policy", ["mrope_full", "flat_1d"])
def test_packed_samples_have_the_loss_and_gradients_of_the_same_samples_alone(load_tiny, folder, system, policy):
    """Commentaries and chat in one row; in float64, as the six variants' test has it."""
    loaded = load_tiny(system, dtype="float64")
    clips = dataset(loaded, folder / "said.jsonl", policy=policy)
    samples = [clips[0, i].sample for i in range(4)]
    assert len({len(sample.tokens) for sample in samples}) == 4 and all(s.tokens.is_causal for s in samples)
    total, collate = sum(int((s.labels != IGNORED).sum()) for s in samples), Collator(0, multiple=64)
    alone, want = gradients_of(loaded.model, [collate.batch([s]) for s in samples], total)
    a, b, c, d = samples
    for rows in ([[a, b, c, d]], [[d, a], [c, b]]):
        together, gradients = gradients_of(loaded.model, [collate.rows(rows)], total)
        assert together == pytest.approx(alone, rel=1e-5) and gradients.keys() == want.keys()
        for name, gradient in gradients.items():
            scale = max(1e-3, float(want[name].abs().max()))
            torch.testing.assert_close(gradient, want[name], rtol=0, atol=1e-5 * scale)


def test_labels_are_the_answers_with_their_ends_and_nothing_else(load_tiny, folder, system):
    loaded = load_tiny(system)
    sample = dataset(loaded, folder / "said.jsonl")[0, 0].sample
    learned = sample.labels != IGNORED
    assert torch.equal(sample.labels[learned], sample.input_ids[learned])
    text = loaded.tokenizer.decode(sample.input_ids[learned])
    turns = text.split("<|im_end|>")[:-1]
    assert all(turn.endswith(" ...") for turn in turns) and "user" not in text and "he was here" not in text
    assert len(turns) == {"streamingvlm": 6, "livecc": 4}[system]
    assert "he was here" in loaded.tokenizer.decode(sample.input_ids) or system == "livecc"
    assert not bool((learned & ~sample.tokens.where(Kind.ANSWER)).any())


def test_chat_samples_are_the_same_alone_and_among_commentaries(load_tiny, folder, system, tmp_path):
    loaded = load_tiny(system)
    mixed = dataset(loaded, folder / "said.jsonl", folder / "said.jsonl")
    alone = dataset(loaded, write(folder / "alone.jsonl", [chat("clips/b.mp4", "What is it?", "A circle.")]))[0, 0]
    for index in (2, 6):
        ours = mixed[3, index].sample
        for name in ("input_ids", "labels", "pixel_values", "video_grid_thw"):
            assert torch.equal(getattr(ours, name), getattr(alone.sample, name)), name
        assert torch.equal(ours.tokens.position_ids, alone.sample.tokens.position_ids)
    learned = loaded.tokenizer.decode(ours.input_ids[ours.labels != IGNORED])
    assert learned == "A circle.<|im_end|>"


def test_an_image_has_the_pixels_that_the_image_processor_gives(load_tiny, folder):
    loaded = load_tiny("livecc")
    sample = dataset(loaded, folder / "said.jsonl")[0, 3].sample
    image = Image.open(folder / "c.png")
    theirs = loaded.processor.image_processor(images=[image], do_resize=False, return_tensors="pt")
    assert torch.equal(sample.video_grid_thw, theirs["image_grid_thw"])
    torch.testing.assert_close(sample.pixel_values, theirs["pixel_values"], atol=1e-5, rtol=0)


def test_lengths_are_known_before_anything_is_decoded(load_tiny, folder, system):
    clips = dataset(load_tiny(system), folder / "said.jsonl", form={"max_length": 150, "truncate": True})
    lengths = lengths_of(clips, range(4), threads=1)
    made = [clips.sample(i, 0) for i in range(4)]
    assert lengths.tokens == [len(sample.tokens) for sample in made]
    assert lengths.num_cut == sum(sample.num_cut > 0 for sample in made) > 0
    clips = dataset(load_tiny(system), folder / "said.jsonl", form={"max_length": 150})
    assert lengths_of(clips, range(4), threads=1).tokens[0] == 0 and isinstance(clips.sample(0, 0), Skip)


def test_a_clip_from_the_middle_has_the_frames_of_the_whole_video(folder):
    whole = read_clip(folder / "clips/a.mp4").frames
    assert np.array_equal(read_clip(folder / "clips/a.mp4", span=(2.0, 8.0)).frames, whole[4:16])
    assert np.array_equal(read_clip(folder / "clips/a.mp4", span=(6.5, None)).frames, whole[13:23])
    assert np.array_equal(read_clip(folder / "clips/a.mp4", span=(0.0, 3.0)).frames, whole[:6])
    with pytest.raises(VideoError, match="it lasts 12.0 s, and the clip would begin at 40 s"):
        read_clip(folder / "clips/a.mp4", span=(40.0, 50.0))


def test_frames_on_disk_are_kept_for_each_span(load_tiny, folder, tmp_path):
    from swwatch.data.frame_cache import FrameCache

    cache = FrameCache(tmp_path / "frames", 0.1, {})
    clips = dataset(load_tiny("livecc"), folder / "said.jsonl", frame_cache=cache)
    plain = dataset(load_tiny("livecc"), folder / "said.jsonl")
    for _ in range(2):
        for i in range(3):
            assert torch.equal(clips.sample(i, 0).pixel_values, plain.sample(i, 0).pixel_values)
    assert len(list((tmp_path / "frames").glob("*/*.frames"))) == 3


def test_records_that_give_no_sample_are_skipped_with_the_reason(load_tiny, folder, system):
    talks = [
        commentary("clips/none.mp4", 0, 4, talk(0, 4)),
        commentary("clips/a.mp4", 50, 60, talk(50, 60)),
        commentary("clips/a.mp4", 5, 4, talk(0, 4)),
        commentary("clips/a.mp4", 0, 4, [["x"]]),
        chat("said.jsonl", "What?", "It.", kind="image"),
        commentary("clips/a.mp4", 0, 4, talk(0, 4)),
    ]
    clips = dataset(load_tiny(system), write(folder / "bad.jsonl", talks))
    reasons = ["no video file", "would begin at 50 s", "no span of a video", "is not [start, end, word]", "no picture"]
    for index, reason in enumerate(reasons):
        skip = clips.sample(index, 0)
        assert isinstance(skip, Skip) and reason in skip.reason and skip.video_id == f"bad/{index + 1}"
    lengths = lengths_of(clips, range(6), threads=1)
    assert [tokens > 0 for tokens in lengths.tokens] == [False] * 5 + [True]
    draw = clips[0, 0]
    assert isinstance(draw.sample, Sample) and draw.skips, "replaced by another one"


def test_a_file_without_offsets_gives_the_same_samples(load_tiny, folder, system):
    loaded, talks = load_tiny(system), [commentary("clips/a.mp4", 0, 4, talk(0, 4))] * 2
    with_seeks = dataset(loaded, write(folder / "with.jsonl", talks))[0, 1].sample
    without = dataset(loaded, write(folder / "without.jsonl", talks, seeks=False))[0, 1].sample
    assert not seeks_file(folder / "without.jsonl").exists()
    assert torch.equal(with_seeks.input_ids, without.input_ids)


def test_held_out_conversations_are_evaluated(load_tiny, folder, system):
    clips = dataset(load_tiny(system), folder / "said.jsonl")
    held_out = HeldOut(clips, Collator(0), count=3, every=1, batch_size=2)
    assert str(held_out) == "3 clips, every 1 steps"


def test_training_budgets_share_a_total_and_others_are_as_live(system):
    budget = training_budget(system)
    assert budget.total_pixels == SYSTEMS[system].total_pixels == 19_267_584
    assert budget.size(720, 1280, 48) == (560, 1008)  # 720 tokens a second: below the cap of a frame
    assert budget.size(720, 1280, 480) == (196, 364)  # at 240 s, 91 tokens a second
    assert training_budget("declared").max_pixels == 50_176
