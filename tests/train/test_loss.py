"""The loss is a mean over answer tokens, whatever the batching: P9 for padding and gradient accumulation."""

import json

import pytest
import torch

from swwatch.data.collator import Collator
from swwatch.data.prompt import IGNORED, load_prompts
from swwatch.policies.speak import RandomK, WaitK
from swwatch.rules.variants import VARIANTS
from swwatch.train.command import main
from swwatch.train.settings import TrainSettings
from swwatch.train.trainer import num_steps
from tests.helpers.small_clips import clip_dataset


@pytest.fixture
def samples(load_tiny, clips):
    """samples(variant, schedule) -> samples of different lengths."""

    def build(variant, schedule=None):
        dataset = clip_dataset(load_tiny(variant), clips, variant, schedule, prompts=load_prompts())
        chosen = [dataset[0, i].sample for i in (0, 1, 2)]
        assert len({len(s.tokens) for s in chosen}) == 3
        return chosen

    return build


def num_labels(sample) -> int:
    return int((sample.labels != IGNORED).sum())


@pytest.mark.parametrize("schedule", [WaitK(3), RandomK(3, seed=1)], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_padded_batch_has_the_loss_and_gradients_of_its_samples_alone(load_tiny, samples, variant, schedule):
    model, collate = load_tiny(variant).model, Collator(pad_id=0)
    chosen = samples(variant, schedule)
    total = sum(map(num_labels, chosen))

    def run(batches):
        model.zero_grad()
        losses = [model(**collate.batch(b), num_items_in_batch=total).loss for b in batches]
        sum(losses).backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        return sum(losses).item(), gradients

    together, gradients = run([chosen])
    alone, gradients_alone = run([[s] for s in chosen])
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(gradients) == len(gradients_alone) > 50
    for ours, theirs in zip(gradients, gradients_alone, strict=True):
        # tol = float32 rounding of sums over some hundred tokens, relative to the largest gradient of the tensor
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * max(1e-3, float(theirs.abs().max())))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_collators_positions_and_mask_are_those_the_model_derives_itself(load_tiny, samples, variant):
    model = load_tiny(variant).model
    batch = Collator(pad_id=0).batch(samples(variant))
    given = model(**batch).loss
    padding = (
        torch.arange(batch["input_ids"].shape[1]) < torch.tensor([[len(s.tokens)] for s in samples(variant)])
    ).long()
    ids = {k: v for k, v in batch.items() if k not in ("position_ids", "columns")}
    derived = model(**ids | {"attention_mask": padding}).loss
    assert given.item() == derived.item()


def test_the_loss_is_the_mean_over_answer_tokens_of_the_row_before(load_tiny, samples):
    model, sample = load_tiny("interleave").model, samples("interleave")[2]
    out = model(**Collator(0).batch([sample]))
    logp = out.logits[0].log_softmax(-1)
    rows = (sample.labels != IGNORED).nonzero()[:, 0]
    by_hand = -logp[rows - 1, sample.labels[rows]].mean()
    assert out.loss.item() == pytest.approx(by_hand.item(), abs=1e-5)
    assert len(rows) == num_labels(sample)


@pytest.mark.parametrize("variant", ["interleave", "group"])
def test_batch_size_and_accumulation_give_one_trajectory(flags, tmp_path, variant):
    """8 x 1, 4 x 2 and 1 x 8 see the same samples a step, so the per-token mean makes them the same run."""
    losses = {}
    for batch, accumulation in ((8, 1), (4, 2), (1, 8)):
        out = tmp_path / f"{batch}x{accumulation}"
        changes = {"variant": variant, "batch_size": batch, "accumulation": accumulation, "output_dir": out}
        assert main(flags(**changes)) == 0
        losses[batch] = [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert losses[8][0] > losses[8][2], "it should learn"
    assert losses[4] == pytest.approx(losses[8], abs=2e-4) and losses[1] == pytest.approx(losses[8], abs=2e-4)


@pytest.mark.parametrize(
    ("changes", "samples", "want"),
    [({}, 20_000, 1250), ({"epochs": 2.0}, 20_000, 2500), ({"max_steps": 7}, 20_000, 7), ({}, 17, 2), ({}, 1, 1)],
)
def test_the_number_of_steps(changes, samples, want):
    assert num_steps(TrainSettings(accumulation=16, **changes), samples) == want
