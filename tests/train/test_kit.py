"""What a run tells and takes besides its loss: learning rates, held-out loss, logs, trackers, dry run."""

import json
import sys
import types

import pytest
import torch

from swwatch.config import load_settings
from swwatch.errors import UserError
from swwatch.train import trackers
from swwatch.train.command import main
from swwatch.train.machine import settle
from swwatch.train.optimizer import part_rates, split_groups
from swwatch.train.parts import parts
from swwatch.train.progress import StepTimes
from swwatch.train.settings import TrainSettings
from tests.helpers.signalled import kill_at
from tests.helpers.small_clips import make_clips
from tests.train.test_resume import lines


def losses(folder) -> list[float]:
    return [line["loss"] for line in lines(folder / "log.jsonl")]


# learning rates


def test_every_part_gets_its_rate_and_keeps_its_weight_decay(load_tiny):
    model = load_tiny("group").model
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    rates = part_rates(TrainSettings(merger_learning_rate=1e-4, vision_learning_rate=0.0, train_vision=True))
    split_groups(optimizer, model, rates)
    want = {"LLM": 1e-3, "merger": 1e-4, "vision tower": 0.0}
    part_of = {id(p): name for name, parameters in parts(model).items() for p in parameters}
    seen = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["lr"] == want[part_of[id(parameter)]]
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
            seen.append(id(parameter))
    assert sorted(seen) == sorted(map(id, model.parameters()))
    assert optimizer.param_groups[0]["lr"] == 1e-3, "the LLM's comes first: it is the one that is logged"


def test_a_part_with_rate_zero_stays_and_the_others_move_as_asked(flags, tiny_checkpoint, tmp_path):
    from safetensors.torch import load_file

    assert main(flags(max_steps=1, lr_schedule="constant", vision_learning_rate=0.0, merger_learning_rate=0.1)) == 0
    before, after = (load_file(path / "model.safetensors") for path in (tiny_checkpoint, tmp_path / "out"))
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    for name, distance in moved.items():
        # the first step of AdamW moves a weight by the learning rate, or by less where its gradient is tiny
        rate = 0.1 if "merger" in name else 0.0 if name.startswith("visual") else 0.01
        assert distance <= rate * 1.001, name
    assert max(moved[name] for name in moved if "merger" in name) == pytest.approx(0.1, rel=1e-3)
    assert lines(tmp_path / "out" / "log.jsonl")[0]["learning_rate"] == 0.01


def test_rates_that_are_the_same_change_nothing(flags, tmp_path):
    assert main(flags(output_dir=tmp_path / "a")) == 0
    assert main(flags(output_dir=tmp_path / "b", merger_learning_rate=0.01, vision_learning_rate=0.01)) == 0
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_a_rate_for_what_does_not_learn_is_refused(flags):
    with pytest.raises(UserError, match="vision_learning_rate 0.1 has nothing to set"):
        main(flags(train_vision=False, vision_learning_rate=0.1))
    with pytest.raises(UserError, match="vision tower, but nothing of it learns"):
        main(flags(train_vision=False, vision_learning_rate=0.1, adapter="lora"))


# held-out loss


def test_training_does_not_notice_the_held_out_clips(flags, clips, tmp_path):
    """Dropout draws random numbers in every step, so a disturbed generator would show in the losses."""
    changes = {"adapter": "lora", "train_vision": False, "lora_dropout": 0.3, "max_steps": 4}
    held_out = make_clips(tmp_path / "held_out", 5, bad=(1,))  # of clips 0, 1 and 3
    assert main(flags(**changes, output_dir=tmp_path / "a")) == 0
    assert main(flags(**changes, output_dir=tmp_path / "b", eval_data=held_out, eval_steps=3, eval_samples=3)) == 0
    plain, told = lines(tmp_path / "a" / "log.jsonl"), lines(tmp_path / "b" / "log.jsonl")
    assert [line["step"] for line in told if "eval_loss" in line] == [3, 4], "every third, and the last"
    bare = [{key: value for key, value in line.items() if not key.startswith("eval_")} for line in told]
    assert bare == plain
    assert all(line["eval_samples"] == 2 for line in told if "eval_loss" in line)


def test_the_held_out_loss_is_the_mean_over_answer_tokens(flags, clips, tmp_path):
    from swwatch.data.collator import Collator
    from swwatch.data.prompt import IGNORED, load_prompts
    from swwatch.model.loading import load
    from tests.helpers.small_clips import clip_dataset

    assert main(flags(max_steps=2, eval_data=clips, eval_samples=0, batch_size=3, accumulation=1)) == 0
    line = lines(tmp_path / "out" / "log.jsonl")[-1]
    loaded = load(tmp_path / "out", device="cpu")
    dataset = clip_dataset(loaded, clips, "group", prompts=load_prompts(), seed=42)
    total = tokens = 0
    for record in dataset.records:
        sample = dataset.build(record, 0)
        count = int((sample.labels != IGNORED).sum())
        with torch.no_grad():
            total += float(loaded.model(**Collator(0).batch([sample])).loss) * count
        tokens += count
    assert (line["eval_tokens"], line["eval_samples"]) == (tokens, 8)
    assert line["eval_loss"] == pytest.approx(total / tokens, rel=1e-5)


def test_held_out_data_that_cannot_be_used_is_told_before_the_first_step(flags, tmp_path):
    with pytest.raises(UserError, match="none.jsonl"):
        main(flags(eval_data=tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="eval_data: no record gives a sample.*0.mp4"):
        main(flags(eval_data=make_clips(tmp_path / "held_out", 1, bad=(0,))))


# logs and trackers


@pytest.fixture
def tracker(monkeypatch):
    """A stand-in for wandb and trackio: what it was told, run by run."""
    told = []
    for name in ("wandb", "trackio"):
        module = types.ModuleType(name)
        module.__spec__ = types.SimpleNamespace(name=name)
        module.init = lambda _name=name, **kwargs: told.append((_name, "init", kwargs))
        module.log = lambda values, step, _name=name: told.append((_name, step, values))
        module.finish = lambda _name=name: told.append((_name, "finish", None))
        monkeypatch.setitem(sys.modules, name, module)
    return told


@pytest.fixture
def tensorboard(monkeypatch):
    """A stand-in for torch's writer, which needs the package tensorboard: what it was told."""
    told = []

    class SummaryWriter:
        def __init__(self, log_dir, purge_step=None):
            told.append(("open", log_dir, purge_step))

        def add_scalar(self, name, value, step):
            told.append((name, value, step))

        def flush(self):
            pass

        def close(self):
            told.append(("close",))

    package = types.ModuleType("tensorboard")
    package.__spec__ = types.SimpleNamespace(name="tensorboard")
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "tensorboard", package)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return told


def test_trackers_are_told_what_the_log_says_and_each_step_once_across_a_restart(
    flags, tmp_path, tracker, tensorboard
):
    out = tmp_path / "out"
    arguments = flags(max_steps=5, save_steps=3, log_to="wandb,trackio,tensorboard")
    kill_at("swwatch.train.progress", "append_line", 9, [*arguments[:-2], "--log-to", "jsonl"])
    # as if the killed run had told them about steps 1 to 4
    sent = {name: {"id": "abc", "step": 4} for name in ("wandb", "trackio")}
    (out / trackers.SENT).write_text(json.dumps(sent))
    assert main(arguments) == 0
    for name in ("wandb", "trackio"):
        mine = [(step, values) for who, step, values in tracker if who == name]
        assert mine[0][0] == "init" and mine[0][1]["resume"] == "allow" and "abc" in mine[0][1]["name"]
        assert mine[0][1]["config"]["variant"] == "group"
        assert [step for step, _ in mine[1:]] == [5, "finish"]
        assert mine[1][1]["train/loss"] == losses(out)[4] and "train/data_wait" in mine[1][1]
    assert tensorboard[0] == ("open", str(out / "tensorboard"), 4) and tensorboard[-1] == ("close",)
    shown = [(value, step) for name, value, *rest in tensorboard[1:-1] for step in rest if name == "train/loss"]
    assert shown == [(losses(out)[3], 4), (losses(out)[4], 5)]
    assert [line["step"] for line in lines(out / "timing.jsonl")] == [1, 2, 3, 4, 5]


def test_a_new_run_in_the_folder_of_a_mistaken_one_is_a_new_run_to_the_trackers(flags, tmp_path, tracker):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / trackers.SENT).write_text('{"wandb": {"id": "abc", "step": 9}}')
    assert main(flags(max_steps=1, log_to="wandb")) == 0
    assert "abc" not in tracker[0][2]["name"] and [step for _, step, _ in tracker] == ["init", 1, "finish"]


def test_a_tracker_that_is_missing_unknown_or_does_not_start_is_told(flags, tracker, monkeypatch):
    with pytest.raises(UserError, match="no tracker 'wand'.*tensorboard, wandb, trackio"):
        main(flags(log_to="wand"))
    sys.modules["trackio"].init = lambda **kwargs: (_ for _ in ()).throw(RuntimeError("no network"))
    with pytest.raises(UserError, match="trackio does not start: no network"):
        main(flags(log_to="trackio"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        trackers.choose_trackers(["wandb"])
    assert trackers.choose_trackers(None) == [] == trackers.choose_trackers(["jsonl"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert trackers.choose_trackers(None) == ["tensorboard"]


def test_progress_tells_pace_wait_skips_and_the_time_to_go(flags, tmp_path, capsys):
    data = make_clips(tmp_path / "data", 8, bad=(3,))
    assert main(flags(train_data=data, max_bad_fraction=0.2, max_steps=5, eval_data=data, eval_steps=5)) == 0
    shown = capsys.readouterr().err
    assert "to go for 5 steps" in shown and "a step takes" in shown
    last = shown.splitlines()[-1]
    for part in (
        "step 5/5",
        "loss ",
        "held out ",
        " tokens/s, ",
        " samples/s",
        "data wait ",
        "1 skipped",
        "0.0 min left",
    ):
        assert part in last, part
    for line in lines(tmp_path / "out" / "timing.jsonl"):
        assert 0 <= line["data_wait"] <= 1 and line["tokens_per_s"] > 0 and line["seconds"] > 0


def test_pace_is_of_all_steps_together():
    pace = StepTimes(1, 2.0, 0.5, 100, 3) + StepTimes(1, 2.0, 1.5, 300, 5)
    assert pace.as_dict() == {"seconds": 4.0, "data_wait": 0.5, "tokens_per_s": 100.0, "samples_per_s": 2.0}
    assert str(pace) == "2.00 s/step, 100 tokens/s, 2.00 samples/s, data wait 50%"


def test_the_banner_tells_adapter_loss_rates_and_tokens_a_step(flags, capsys):
    changes = {"adapter": "lora", "train_vision": False, "merger_learning_rate": 0.001, "pack_tokens": 8192}
    assert main(flags(**changes, lora_targets="q_proj,v_proj", max_steps=1)) == 0
    shown = capsys.readouterr().out
    for fact in (
        "lora of rank 16, alpha 32, on q_proj, v_proj",
        "merger 20,672 of 20,672",
        "AdamW 0.01 (merger 0.001) cosine",
        "chunked (logits of answer tokens only)",
        "packs, about ",
        "sdpa (dense mask: on cpu FlexAttention has no backward pass)",
        "log.jsonl",
    ):
        assert fact in shown, fact


# dry run


@pytest.mark.parametrize(
    "changes", [{}, {"pack_tokens": 8192, "keep": "carrier"}, {"adapter": "lora", "train_vision": False}], ids=str
)
def test_a_dry_run_tells_and_draws_and_leaves_nothing_else(flags, tmp_path, capsys, changes):
    assert main([*flags(variant="gap", **changes), "--dry-run"]) == 0
    out = tmp_path / "out"
    assert [path.name for path in out.iterdir()] == ["dry_run.png"]
    assert (out / "dry_run.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    shown = capsys.readouterr().out
    for part in (
        "variant      gap",
        "trainable",
        "forward",
        "labels",
        "answer ",
        "steps        3",
        "said in step 1: ",
    ):
        assert part in shown, part
    assert ("% full" in shown) == ("pack_tokens" in changes)
    assert main(flags(variant="gap", **changes)) == 0, "the folder is as good as new"


def test_a_dry_run_counts_what_the_first_step_will_learn_from(flags, tmp_path, capsys):
    assert main([*flags(max_steps=1), "--dry-run"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line[:1].isdigit()]
    assert main(flags(max_steps=1)) == 0
    step = lines(tmp_path / "out" / "log.jsonl")[0]
    assert step["samples"] == sum(int(row[2]) for row in rows) and step["padding"] == sum(int(row[4]) for row in rows)
    assert step["tokens"] == sum(int(row[3].replace(",", "")) for row in rows)


def test_a_dry_run_meets_the_same_mistakes(flags, tmp_path):
    with pytest.raises(UserError, match="no record gives a sample.*max_length 20"):
        main([*flags(max_length=20, pack_tokens=100), "--dry-run"])
    with pytest.raises(UserError, match="no sample could be drawn.*max_length 20"):
        main([*flags(max_length=20), "--dry-run"])


def test_samples_longer_than_max_length_are_counted_and_listed_before_the_first_step(flags, tmp_path, capsys):
    with pytest.raises(UserError, match="of 8 records are unusable"):
        main(flags(group_by_length=True, max_length=70))
    shown = capsys.readouterr().out
    assert "records cannot be used" in shown and ": the sample has more than max_length 70" in shown
    assert ".mp4: the sample has 7" in shown
    assert not (tmp_path / "out" / "log.jsonl").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without tf32")
def test_tf32_is_refused_where_there_is_none(tiny_checkpoint):
    with pytest.raises(UserError, match="tf32 needs a CUDA device"):
        settle(
            load_settings(TrainSettings, flags={"model_path": str(tiny_checkpoint), "variant": "gap", "tf32": True})
        )
