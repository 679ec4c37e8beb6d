"""Batches: padding, positions and masks are those of the single samples."""

import pytest
import torch

from swwatch.data.collator import Collator
from swwatch.data.dataset import Draw, Sample, Skip
from swwatch.data.packing import Pack
from swwatch.data.prompt import IGNORED
from swwatch.model.attention import dense_mask
from swwatch.rules.cursor import layout
from swwatch.rules.variants import VARIANTS

PAD = 7


def sample(variant, steps, answer):
    tokens = layout(variant, 4, [(2, 3)] * steps, answer)
    ids = torch.arange(100, 100 + len(tokens))
    grid = torch.tensor([[steps, 4, 6]])
    return Sample(ids, ids.clone(), tokens, torch.full((steps * 24, 5), float(steps)), grid)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_holds_each_sample_unchanged_and_padding_apart(variant):
    samples = [sample(variant, 2, 9), sample(variant, 4, 14), sample(variant, 1, 1)]
    batch = Collator(PAD)([Draw(s) for s in samples])
    length, masks = max(len(s.tokens) for s in samples), dense_mask(batch["columns"])
    assert masks.shape == (3, 1, length, length) and masks.dtype == torch.bool
    assert batch["position_ids"].shape == (3, 3, length) and batch["skips"] == []
    for i, s in enumerate(samples):
        n, mask = len(s.tokens), masks[i, 0]
        assert torch.equal(batch["input_ids"][i, :n], s.input_ids) and bool((batch["input_ids"][i, n:] == PAD).all())
        assert torch.equal(batch["labels"][i, :n], s.labels) and bool((batch["labels"][i, n:] == IGNORED).all())
        assert torch.equal(batch["position_ids"][:, i, :n], s.tokens.position_ids)
        assert torch.equal(mask[:n, :n], s.tokens.visible())
        assert not mask[:n, n:].any() and not mask[n:, :n].any(), "padding and samples do not see each other"
        assert bool(mask.diagonal()[n:].all()), "a row without a key would be NaN"
    assert batch["pixel_values_videos"].shape == (7 * 24, 5)
    assert batch["video_grid_thw"].tolist() == [[2, 4, 6], [4, 4, 6], [1, 4, 6]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_samples_stand_behind_one_another_and_see_nothing_of_each_other(variant):
    samples = [sample(variant, 2, 9), sample(variant, 4, 14), sample(variant, 1, 1)]
    batch = Collator(PAD)([Pack(tuple(samples[:2])), Pack(tuple(samples[2:]))])
    masks = dense_mask(batch["columns"])
    assert masks.shape[0] == 2 and masks.shape[-1] == len(samples[0].tokens) + len(samples[1].tokens)
    start = 0
    for s in samples[:2]:
        here = slice(start, start + len(s.tokens))
        assert torch.equal(masks[0, 0, here, here], s.tokens.visible())
        assert int(masks[0, 0, here].sum()) == int(masks[0, 0, :, here].sum()) == int(s.tokens.visible().sum())
        assert torch.equal(batch["position_ids"][:, 0, here], s.tokens.position_ids), "positions start anew"
        start = here.stop
    assert torch.equal(batch["input_ids"][0], torch.cat([s.input_ids for s in samples[:2]]))
    assert batch["video_grid_thw"].tolist() == [[2, 4, 6], [4, 4, 6], [1, 4, 6]]


def test_rows_are_padded_to_a_multiple():
    batch = Collator(PAD, multiple=64)([Draw(sample("gap", 4, 14))])
    assert {batch[key].shape[-1] for key in ("input_ids", "labels", "position_ids", "columns")} == {64}


def test_skips_are_handed_on_and_a_lost_sample_leaves_nothing_to_train_on():
    first, second = Skip("1", "1.mp4", "empty"), Skip("2", "2.mp4", "empty")
    good = sample("group", 2, 9)
    assert Collator(PAD)([Draw(good, (first,)), Draw(good)])["skips"] == [first]
    assert Collator(PAD)([Draw(good, (first,)), Draw(None, (second,))]) == {"skips": [first, second]}
