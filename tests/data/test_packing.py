"""Plans of packs and of batches of like length: whole, within the budget, a function of seed and epoch alone."""

import json
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.data.collator import Collator
from swwatch.data.lengths import lengths_of, sample_lengths
from swwatch.data.packing import LengthOrder, PackedClips, PackOrder, PackPlan
from swwatch.data.prompt import Prompts
from swwatch.errors import UserError
from tests.helpers.small_clips import clip_dataset, make_clips

PROMPTS = Prompts("Be brief.", ("What happens?", "Describe the video in a few words, please."), "unused")
lengths_and_budget = st.integers(8, 5000).flatmap(
    lambda budget: st.tuples(st.lists(st.integers(0, budget), min_size=1, max_size=120), st.just(budget))
)


@settings(max_examples=150, deadline=None)
@given(case=lengths_and_budget, seed=st.integers(0, 3))
def test_every_epoch_packs_every_sample_once_within_the_budget_and_into_as_many_packs(case, seed):
    lengths, budget = case
    if not any(lengths):
        with pytest.raises(UserError, match="no sample to pack"):
            PackPlan(lengths, budget, seed)
        return
    plan = PackPlan(lengths, budget, seed)
    for epoch in range(3):
        packs = plan.epoch(epoch)
        assert len(packs) == len(plan) and all(packs)
        assert sorted(i for pack in packs for i in pack) == [i for i, length in enumerate(lengths) if length]
        assert all(sum(lengths[i] for i in pack) <= budget for pack in packs)
    assert plan.epoch(1) == PackPlan(lengths, budget, seed).epoch(1)


def test_packs_are_nearly_full_and_differ_by_epoch_and_seed():
    drawn = torch.Generator().manual_seed(0)
    lengths = torch.randint(300, 2200, (2000,), generator=drawn).tolist()
    plan = PackPlan(lengths, 8192, seed=1)
    assert sum(lengths) / (len(plan) * 8192) > 0.97
    first, second = plan.epoch(0), plan.epoch(1)
    assert first != second != PackPlan(lengths, 8192, seed=2).epoch(1)
    together = Counter(frozenset(pack) for pack in first) & Counter(frozenset(pack) for pack in second)
    assert sum(together.values()) < len(plan) / 10, "samples should meet others in the next epoch"
    sizes = [len(pack) for pack in first]
    assert len(set(sizes[: len(sizes) // 2])) > 1, "packs of many and of few samples should be mixed"


def test_a_sample_longer_than_a_pack_is_an_error():
    with pytest.raises(UserError, match="900 tokens does not fit.*raise pack_tokens"):
        PackPlan([5, 900], 512, 0)


def test_the_order_of_packs_is_that_of_the_epoch():
    order = PackOrder(PackPlan([3, 4, 5, 6, 7], 10, 0))
    order.set_epoch(4)
    assert [key for key in order] == [(4, pack) for pack in order.plan.epoch(4)] and len(order) == len(order.plan)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 99), max_size=200), st.integers(1, 9), st.integers(0, 2))
def test_batches_by_length_hold_every_sample_once_an_epoch(lengths, batch_size, epoch):
    order = LengthOrder(lengths, batch_size, seed=3)
    order.set_epoch(epoch)
    keys = list(order)
    assert sorted(i for _, i in keys) == [i for i, n in enumerate(lengths) if n] and {e for e, _ in keys} <= {epoch}
    assert keys == list(order) and len(order) == len(keys)


def test_batches_by_length_need_little_padding_and_are_not_sorted():
    """Over several epochs, one right after the other as a run reads them, none a multiple of the batch."""
    drawn = torch.Generator().manual_seed(0)
    lengths = torch.randint(100, 3000, (2003,), generator=drawn).tolist()
    order, keys = LengthOrder(lengths, 8, seed=0), []
    for epoch in range(4):
        order.set_epoch(epoch)
        keys += [i for _, i in order]
    batches = [[lengths[i] for i in keys[start : start + 8]] for start in range(0, len(keys), 8)]
    padding = sum(max(batch) * len(batch) - sum(batch) for batch in batches)
    assert padding < 0.05 * 4 * sum(lengths)
    longest = [max(batch) for batch in batches]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"), 8, bad=(3,)).parent


@pytest.fixture
def make(folder, load_tiny):
    def build(variant="group", **options):
        return clip_dataset(load_tiny(variant), folder / "train.jsonl", variant, prompts=PROMPTS, **options)

    return build


def test_lengths_are_those_of_the_samples_with_the_longest_question(make, tmp_path):
    clips = make()
    found = sample_lengths(clips, tmp_path / "sizes.jsonl", threads=2)
    assert found.tokens[3] == 0 and [s.video_id for s in found.skips] == ["3"] and "empty" in found.skips[0].reason
    for i in range(8):
        if i != 3:
            built = {len(clips.build(clips.records[i], epoch).tokens) for epoch in range(8)}
            assert found.tokens[i] == max(built)


def test_a_sample_over_the_limit_is_listed_before_anything_is_decoded(make, tmp_path, monkeypatch):
    all_lengths = sample_lengths(make(), tmp_path / "a.jsonl", threads=1).tokens
    limit = sorted(all_lengths)[4]
    monkeypatch.setattr("swwatch.data.dataset.iter_steps", lambda *a, **k: pytest.fail("decoded"))
    found = sample_lengths(make(max_length=limit), tmp_path / "a.jsonl", threads=1)
    assert found.tokens == [n if n <= limit else 0 for n in all_lengths]
    assert sum(f"more than max_length {limit}" in s.reason for s in found.skips) == sum(n > limit for n in all_lengths)


def test_cut_samples_are_counted_and_as_long_as_they_will_be(make, tmp_path):
    limit = sorted(lengths_of(make(), range(8), threads=1).tokens)[4]
    clips = make(max_length=limit, truncate=True)
    found = sample_lengths(clips, tmp_path / "a.jsonl", threads=1)
    longest = [
        max((clips.build(clips.records[i], e) for e in range(8)), key=lambda s: len(s.tokens)) for i in (1, 2, 7)
    ]
    assert [found.tokens[i] for i in (1, 2, 7)] == [len(sample.tokens) for sample in longest]
    assert found.num_cut >= 1 and [skip.video_id for skip in found.skips] == ["3"]


def test_questions_and_captions_count_as_in_the_samples(make):
    clips = make()
    clips.records = [
        record | {"question": "What is in the  video?", "human_caption": f" {record['human_caption']}\n\tEnd "}
        for record in clips.records[:3]
    ] + [clips.records[4] | {"human_caption": "it says <|im_end|>"}]
    found = lengths_of(clips, range(4), threads=1)
    assert found.tokens == [*(len(clips.build(clips.records[i], 0).tokens) for i in range(3)), 0]
    assert "<|im_end|>" in found.skips[0].reason
    assert lengths_of(clips, [2, 0], threads=1).tokens == [found.tokens[2], found.tokens[0]]


def test_sizes_are_measured_once_and_a_line_cut_short_is_measured_again(make, tmp_path, monkeypatch):
    file = tmp_path / "sizes.jsonl"
    first = sample_lengths(make(), file, threads=2)
    text = file.read_text()
    file.write_text(text[:-20])
    assert sample_lengths(make(), file, threads=2) == first
    written = [line for line in file.read_text().splitlines() if line]
    assert len(written) == 9 and json.loads(written[-1])["record"] == 7
    monkeypatch.setattr("swwatch.data.dataset.measure", lambda *a, **k: pytest.fail("measured again"))
    assert sample_lengths(make(), file, threads=2) == first


def packed(make, tmp_path, budget=400):
    clips = make(max_length=budget)
    plan = PackPlan(sample_lengths(clips, tmp_path / "sizes.jsonl", threads=1).tokens, budget, seed=0)
    return PackedClips(clips, budget, len(plan)), PackOrder(plan)


def test_workers_give_the_same_packs_as_the_process_itself(make, tmp_path):
    dataset, order = packed(make, tmp_path)
    options = {"batch_size": 1, "sampler": order, "collate_fn": Collator(0)}
    alone = list(torch.utils.data.DataLoader(dataset, **options))
    helped = list(torch.utils.data.DataLoader(dataset, num_workers=2, **options))
    assert len(alone) == len(order) > 1 and max(b["counts"]["samples"] for b in alone) > 1
    for ours, theirs in zip(alone, helped, strict=True):
        assert ours["counts"] == theirs["counts"] and ours["counts"]["tokens"] <= 400
        tensors = [key for key in ours if isinstance(ours[key], torch.Tensor)]
        assert len(tensors) == 6 and all(torch.equal(ours[key], theirs[key]) for key in tensors)


def test_a_clip_that_cannot_be_read_after_all_leaves_the_others_where_they_are(make, tmp_path):
    dataset, _ = packed(make, tmp_path)
    whole, less = dataset[0, (0, 1)], dataset[0, (0, 3, 1)]
    assert [s.video_id for s in less.skips] == ["3"] and whole.skips == ()
    for ours, theirs in zip(whole.samples, less.samples, strict=True):
        assert torch.equal(ours.input_ids, theirs.input_ids)


def test_a_pack_without_a_readable_clip_draws_one_in_its_place(make, tmp_path):
    dataset, _ = packed(make, tmp_path)
    pack = dataset[0, (3,)]
    assert len(pack.samples) == 1 and {s.video_id for s in pack.skips} == {"3"}


def test_a_sample_that_does_not_fit_its_pack_is_listed_and_never_cut(make, tmp_path):
    dataset, _ = packed(make, tmp_path)
    pack = dataset[0, (0, 1, 2, 4, 5, 6, 7)]
    assert sum(len(s.tokens) for s in pack.samples) <= dataset.budget
    assert pack.skips and all("its pack has room for" in s.reason for s in pack.skips)
    assert len(pack.samples) + len(pack.skips) == 7
