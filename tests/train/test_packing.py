"""P9: packing and batching change nothing, neither losses nor gradients nor weights after steps."""

import json

import pytest
import torch
from safetensors.torch import load_file

from swwatch.data.collator import Collator
from swwatch.data.prompt import IGNORED, load_prompts
from swwatch.errors import UserError
from swwatch.policies.speak import RandomK, WaitK
from swwatch.rules.variants import VARIANTS
from swwatch.train.command import main
from swwatch.train.machine import settle
from swwatch.train.settings import TrainSettings
from tests.helpers.small_clips import clip_dataset, make_clips


def gradients_of(model, batches, total):
    """Loss over all batches, and its gradients."""
    model.zero_grad()
    losses = [model(**batch, num_items_in_batch=total).loss for batch in batches]
    sum(losses).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return sum(losses).item(), gradients


@pytest.mark.parametrize("schedule", [WaitK(3), RandomK(3, seed=1)], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_samples_have_the_loss_and_gradients_of_the_same_samples_alone(load_tiny, clips, variant, schedule):
    """In float64, so that what is left of a difference is none of rounding; 1e-5 of each tensor's largest gradient."""
    loaded = load_tiny(variant, dtype="float64")
    dataset = clip_dataset(loaded, clips, variant, schedule, prompts=load_prompts())
    a, b, c = (dataset[0, i].sample for i in (0, 1, 2))
    assert len({len(s.tokens) for s in (a, b, c)}) == 3
    total = sum(int((s.labels != IGNORED).sum()) for s in (a, b, c))
    collate = Collator(0, multiple=64)
    alone, want = gradients_of(loaded.model, [collate.batch([s]) for s in (a, b, c)], total)
    assert len(want) > 50
    for rows in ([[a, b, c]], [[c, a], [b]], [[a], [b], [c]]):  # packed, packed and padded, padded
        together, gradients = gradients_of(loaded.model, [collate.rows(rows)], total)
        assert together == pytest.approx(alone, rel=1e-5)
        assert gradients.keys() == want.keys()
        for name, gradient in gradients.items():
            scale = max(1e-3, float(want[name].abs().max()))
            torch.testing.assert_close(gradient, want[name], rtol=0, atol=1e-5 * scale)


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("variant", ["batch", "overlap"])
def test_one_by_one_and_side_by_side_and_packed_are_one_trajectory(flags, tmp_path, variant):
    """A step sees all eight samples each time, so the mean over its answer tokens makes them the same run."""
    ways = {
        "alone": {"batch_size": 1, "accumulation": 8},
        "padded": {"batch_size": 8, "accumulation": 1},
        "sorted": {"batch_size": 2, "accumulation": 4, "group_by_length": True},
        "packed": {"batch_size": 1, "accumulation": 1, "pack_tokens": 2000},
    }
    losses, weights, counts = {}, {}, {}
    for way, changes in ways.items():
        out = tmp_path / way
        assert main(flags(variant=variant, max_length=2000, output_dir=out, **changes)) == 0
        losses[way] = [line["loss"] for line in log_of(out)]
        counts[way] = [(line["samples"], line["tokens"]) for line in log_of(out)]
        weights[way] = load_file(out / "model.safetensors")
    assert losses["alone"][0] > losses["alone"][2], "it should learn"
    for way in ("padded", "sorted", "packed"):
        assert counts[way] == counts["alone"] and counts[way][0][0] == 8
        assert losses[way] == pytest.approx(losses["alone"], abs=2e-4)
        for name, tensor in weights[way].items():
            # Adam divides by the size of a gradient, so where that is rounding alone a step may go either way
            far = (tensor - weights["alone"][name]).abs() > 1e-3
            assert float(far.float().mean()) < 0.02, name
    assert log_of(tmp_path / "packed")[0]["padding"] == 0 < log_of(tmp_path / "padded")[0]["padding"]
    assert log_of(tmp_path / "sorted")[0]["padding"] < log_of(tmp_path / "padded")[0]["padding"]


PACKED = {"pack_tokens": 400, "max_length": 400, "batch_size": 1, "accumulation": 1, "variant": "gap"}


def test_workers_and_a_restart_change_nothing_of_a_packed_run(flags, tmp_path, monkeypatch):
    from swwatch.train import checkpoints

    out, whole = tmp_path / "out", tmp_path / "whole"
    assert main(flags(**PACKED, max_steps=9, save_steps=3, output_dir=whole)) == 0
    changes = PACKED | {"max_steps": 9, "save_steps": 3, "save_total_limit": 3}
    assert main(flags(**changes, num_workers=1)) == 0
    assert log_of(out) == log_of(whole) and len({line["samples"] for line in log_of(out)}) > 1
    (out / checkpoints.FINISHED).unlink()
    for step in (6, 9):
        (out / f"checkpoint-{step}" / checkpoints.COMPLETE).unlink()
    monkeypatch.setattr("swwatch.data.dataset.measure", lambda *a, **k: pytest.fail("the plan is kept"))
    assert main(flags(**changes)) == 0
    assert log_of(out) == log_of(whole)


def test_a_packed_run_lists_what_it_leaves_out_before_the_first_step(flags, tmp_path, capsys):
    data = make_clips(tmp_path / "data", 8, bad=(2,))
    changes = PACKED | {"train_data": data, "max_bad_fraction": 0.5}
    assert main(flags(**changes)) == 0
    skipped = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [line["video_id"] for line in skipped] == ["2"]
    shown = capsys.readouterr().out
    assert "packs of up to 400 tokens" in shown and "for 7 samples" in shown and "1 x 1 packs" in shown
    with pytest.raises(UserError, match="1 of 8 records are unusable"):
        main(flags(**changes | {"max_bad_fraction": 0.1, "output_dir": tmp_path / "other"}))
    assert not (tmp_path / "other" / "log.jsonl").exists()


def test_samples_that_are_all_too_long_end_the_run_before_it_begins(flags):
    with pytest.raises(UserError, match="no record gives a sample.*more than max_length 20"):
        main(flags(**PACKED | {"pack_tokens": 20, "max_length": 20}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pack_tokens": 4096}, "below max_length 8192"),
        ({"pack_tokens": 9000, "group_by_length": True}, "exclude each other"),
        ({"attention": "flex", "variant": "gap"}, "no backward pass on a CPU: use --attention sdpa"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(changes, words):
    with pytest.raises(UserError, match=words):
        settle(TrainSettings(**changes))


def test_the_banner_says_which_attention_was_chosen_and_why(flags, capsys):
    assert main(flags(max_steps=1)) == 0
    assert "sdpa (dense mask: on cpu FlexAttention has no backward pass)" in capsys.readouterr().out
