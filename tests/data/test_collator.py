"""Batches: padding, positions and masks are those of the single samples."""

import pytest
import torch

from swwatch.data.collator import Collator
from swwatch.data.dataset import Draw, Sample, Skip
from swwatch.data.prompt import IGNORED
from swwatch.variants import VARIANTS, layout

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
    length = max(len(s.tokens) for s in samples)
    assert batch["attention_mask"].shape == (3, 1, length, length) and batch["attention_mask"].dtype == torch.bool
    assert batch["position_ids"].shape == (3, 3, length) and batch["skips"] == []
    for i, s in enumerate(samples):
        n = len(s.tokens)
        mask = batch["attention_mask"][i, 0]
        assert torch.equal(batch["input_ids"][i, :n], s.input_ids) and bool((batch["input_ids"][i, n:] == PAD).all())
        assert torch.equal(batch["labels"][i, :n], s.labels) and bool((batch["labels"][i, n:] == IGNORED).all())
        assert torch.equal(batch["position_ids"][:, i, :n], s.tokens.position_ids)
        assert torch.equal(mask[:n, :n], s.tokens.visible())
        assert not mask[:n, n:].any() and torch.equal(mask[n:], torch.eye(length, dtype=torch.bool)[n:])
    assert batch["pixel_values_videos"].shape == (7 * 24, 5)
    assert batch["video_grid_thw"].tolist() == [[2, 4, 6], [4, 4, 6], [1, 4, 6]]


def test_the_padding_mask_counts_the_tokens_of_each_sample():
    samples = [sample("origin", 2, 9), sample("origin", 4, 14)]
    mask = Collator(PAD, dense_mask=False)([Draw(s) for s in samples])["attention_mask"]
    assert mask.sum(1).tolist() == [len(s.tokens) for s in samples] and bool(mask[:, 0].all())


def test_skips_are_handed_on_and_a_lost_sample_leaves_nothing_to_train_on():
    first, second = Skip("1", "1.mp4", "empty"), Skip("2", "2.mp4", "empty")
    good = sample("group", 2, 9)
    assert Collator(PAD)([Draw(good, (first,)), Draw(good)])["skips"] == [first]
    assert Collator(PAD)([Draw(good, (first,)), Draw(None, (second,))]) == {"skips": [first, second]}
