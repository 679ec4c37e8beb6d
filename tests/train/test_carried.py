"""Training with carriers: packing (P9), what it learns, what is stored, and clips that are too long for the bank."""

import json
from dataclasses import replace
from unittest import mock

import pytest
import torch

from swwatch.data.collator import Collator
from swwatch.data.prompt import IGNORED, load_prompts
from swwatch.data.samples import Skip
from swwatch.engine.door import open_stream
from swwatch.model.loading import load
from swwatch.policies.memory.carrier import Carrier
from swwatch.policies.speak import WaitK
from swwatch.train.command import main
from tests.helpers.small_clips import clip_dataset
from tests.train.test_packing import gradients_of


def test_p9_packed_and_padded_samples_have_the_loss_and_gradients_of_the_samples_alone(load_tiny, clips):
    loaded = load_tiny("overlap", dtype="float64")
    dataset = clip_dataset(loaded, clips, "overlap", WaitK(3), prompts=load_prompts())
    a, b, c = samples = [dataset[0, i].sample for i in (0, 1, 2)]
    total, collate = sum(int((s.labels != IGNORED).sum()) for s in samples), Collator(0, multiple=64)
    with mock.patch.object(loaded.model, "settings", replace(loaded.settings, keep=Carrier())):
        alone, want = gradients_of(loaded.model, [collate.batch([s]) for s in samples], total)
        pixels = a.pixel_values.clone().requires_grad_()
        loaded.model(**collate.batch([replace(a, pixel_values=pixels)])).loss.backward()
        loaded.model.zero_grad()
        assert bool(pixels.grad.abs().sum(1).all()), "words learn from every cell of every patch, by its carrier"
        for rows in ([[a, b, c]], [[c, a], [b]]):  # packed, packed and padded
            together, gradients = gradients_of(loaded.model, [collate.rows(rows)], total)
            assert together == pytest.approx(alone, rel=1e-5) and gradients.keys() == want.keys() and len(want) > 50
            for name, gradient in gradients.items():
                scale = max(1e-3, float(want[name].abs().max()))
                torch.testing.assert_close(gradient, want[name], rtol=0, atol=1e-5 * scale)
    plain, _ = gradients_of(loaded.model, [collate.batch([s]) for s in samples], total)
    assert plain != pytest.approx(alone, rel=1e-3), "the mask does something"


def test_a_run_learns_and_its_checkpoint_keeps_so_and_clips_beyond_the_bank_are_skipped(flags, clips, tmp_path):
    run = flags(keep="carrier:3", batch_size=3, accumulation=1, max_steps=6, max_bad_fraction=1, pack_tokens=8192)
    assert main(run) == 0
    losses = [json.loads(line)["loss"] for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.9 * losses[0]
    skipped = [json.loads(line) for line in (tmp_path / "out/skipped.jsonl").read_text().splitlines()]
    assert {line["video_id"] for line in skipped} == {"2", "5"}, "of 4 steps"
    assert "more steps than keep carrier:3 has carriers" in skipped[0]["reason"]
    loaded = load(tmp_path / "out", device="cpu")
    assert loaded.settings.keep == open_stream(loaded).keep == Carrier(3)


def test_a_sample_is_counted_with_its_carriers_before_anything_is_decoded(load_tiny, clips):
    loaded = load_tiny("group")
    plain, carried = (
        clip_dataset(loaded, clips, "group", prompts=load_prompts(), carriers=most) for most in (None, 3)
    )
    sizes = [plain.measure(record) for record in plain.records]
    (before, after) = (dataset.counter()(dataset.records, sizes) for dataset in (plain, carried))
    steps = [frames // 2 for frames, *_ in sizes]
    for (count, _), more, number in zip(before, after, steps, strict=True):
        assert more[0] == count + number if number <= 3 else "more steps than keep carrier:3" in more
    assert isinstance(carried.sample(2, 0), Skip)
