"""The training benchmark: its arithmetic, that all rows compute the same, and that it says what it did not measure."""

import json
from dataclasses import replace
from multiprocessing import Pipe

import pytest
import torch

from swwatch.bench import command, gpus
from swwatch.bench.models import random_model, shape_config
from swwatch.bench.shapes import SHAPES
from swwatch.bench.train import figures, page, worker
from swwatch.bench.train.samples import MadeUp, forwards, pack_tokens, visible_pairs
from swwatch.bench.train.settings import BASELINE, ROWS, TrainBenchSettings, why_not
from swwatch.bench.trust import verdict
from swwatch.config import load_settings
from swwatch.data.collator import Collator
from swwatch.errors import UserError
from swwatch.model.dummy import MARKUP
from swwatch.rules.variants import VARIANTS

MACHINE = {"gpus": [], "cpu": "some CPU", "cores": 4, "load": [0.5, 0, 0], "clocks": [], "time": "now", "commit": "c"}
MACHINE |= {"torch": "2", "transformers": "5", "python": "3"}
TIME = {"cpu_seconds": 1.0, "vision_seconds": 0.5, "loss": 2.0}
COUNTS = {
    "samples": 8,
    "tokens": 800,
    "label_tokens": 80,
    "padding": 0,
    "pairs": 40_000,
    "forwards": 8,
    "longest": 100,
}
SIZES = {"layer_weights": 1000, "head_weights": 500, "attention_width": 16, "layers": 2}
FACTS = COUNTS | SIZES | {"parameters": 2000, "trained": 1500, "threads": 1, "build_s": 0.1, "memory": {"peak": 10**9}}


def measured(name, seconds, **changes):
    row = ROWS[name]
    result = {"row": row.name, "attention": row.attention, "rows": row.rows, "length": None} | FACTS
    return result | {"times": [TIME | {"seconds": s} for s in (99.0, *seconds)]} | changes


def result_of(rows, settings, **changes):
    done = figures.finish(rows, settings, MACHINE)
    shown = {k: v if isinstance(v, int | float | str | None) else str(v) for k, v in vars(settings).items()}
    result = {"command": "swwatch bench train", "settings": shown, "begin": MACHINE, "end": MACHINE, "threads": 1}
    result["verdict"] = {"trusted": True, "reasons": [], "rule": "trusted when quiet"}
    return result | {"rows": done, "sweep": [], "warnings": []} | changes


SETTINGS = TrainBenchSettings(warmup=1, repeats=3, precision="float32")
BF16 = replace(SETTINGS, precision="bfloat16")


def test_operations_are_those_counted_by_hand():
    # 10 tokens, 2 with a label, one layer of 3 x 5 + 5 x 3 = 30 weights, a head of 3 x 7 = 21, 2 heads of size 4,
    # causal: 10 * 11 / 2 = 55 pairs. 6 * 30 * 10 + 6 * 21 * 2 + 12 * 8 * 55 = 1800 + 252 + 5280
    counted = figures.step_flops(
        layer_weights=30, head_weights=21, attention_width=8, layers=1, tokens=10, labels=2, pairs=55
    )
    assert counted == 7332


def test_sizes_of_a_model_are_its_matrices_without_embeddings_norms_and_vision_tower(load_tiny):
    sizes = figures.llm_sizes(load_tiny("group").model)
    hidden, kv, mlp, layers = 32, 16, 96, 2
    assert sizes["layer_weights"] == layers * (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * mlp)
    assert (sizes["attention_width"], sizes["layers"]) == (32, 2)
    assert sizes["head_weights"] == load_tiny("group").model.lm_head.weight.numel()


@pytest.mark.parametrize(
    ("gpu", "tflops"),
    [
        ("NVIDIA H200", 989.0),
        ("NVIDIA H200 NVL", 835.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA GeForce GTX 970", None),
    ],
)
def test_the_peak_is_that_of_the_gpus_name_or_the_one_given(gpu, tflops):
    assert gpus.known_rates(gpu)[0] == (None if tflops is None else tflops * 1e12)
    (row,) = figures.finish([measured("sdpa", (1.0,))], replace(BF16, peak_tflops=5.0), MACHINE | {"gpus": [gpu]})
    assert row["mfu"] == row["flops"] / row["step_s"] / 5e12


def test_figures_are_of_the_median_after_the_warm_up():
    row = figures.figures(measured("sdpa", (2.0, 4.0, 3.0)), warmup=1, peak=1e9)
    assert (row["step_s"], row["samples_per_s"], row["tokens_per_s"]) == (3.0, 8 / 3, 800 / 3)
    assert row["label_tokens_per_s"] == 80 / 3 and row["spread"] == pytest.approx(1 / 3) and row["loss"] == 2.0
    operations = 6 * (1000 * 800 + 500 * 80) + 12 * 2 * 16 * 40_000
    assert row["mfu"] == operations / 3.0 / 1e9 and row["llm_mfu"] == operations / 2.5 / 1e9
    assert "mfu" not in figures.figures(measured("sdpa", (2.0,)), warmup=1, peak=None)


def test_the_table_has_ratios_to_the_baseline_and_tells_what_was_not_measured():
    missing = {"row": "flex", "rows": "one", "length": None, "not_measured": "no GPU here"}
    rows = [measured(BASELINE, (3.0, 3.0, 3.0)), measured("sdpa-packed", (1.5, 1.5, 1.5), forwards=1), missing]
    result = result_of(rows, SETTINGS)
    assert [row.get("times_baseline") for row in result["rows"]] == [1.0, 2.0, None]
    text = page.report(result)
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "1 x pack" in lines["sdpa-packed"] and "| 2.00 " in lines["sdpa-packed"]
    assert "not measured" in lines["flex"] and "- flex: not measured: no GPU here" in text
    assert len({line.count("|") for line in lines.values()}) == 1
    assert "load average: 0.5 before" in text and "some CPU; 4 CPU cores" in text and "`swwatch bench train`" in text
    json.dumps(result)


def test_a_sweep_tells_how_memory_grows_with_a_token():
    sizes = {2048: 10_000_000, 8192: 16_144_000}
    rows = [measured("flex", (1.0,), length=n, memory={"peak": peak}) for n, peak in sizes.items()]
    text = page.sweep_table(figures.finish(rows, SETTINGS, MACHINE))
    assert "| 8,192" in text and "1,000" in text  # 6,144,000 bytes over 6,144 tokens


def test_utilisation_is_told_for_bfloat16_on_a_gpu_alone():
    gpu = MACHINE | {"gpus": ["NVIDIA H200"]}
    for precision, there in (("bfloat16", True), ("autocast", True), ("float32", False)):
        row = figures.finish([measured("sdpa", (1.0,))], replace(SETTINGS, precision=precision), gpu)[0]
        assert ("llm_mfu" in row) is there


def test_a_busy_machine_spread_and_unequal_losses_are_warned_of():
    quiet = {"load": 3.9, "cores": 4, "others": 0.1}
    assert verdict(SETTINGS, **quiet)["trusted"]
    assert "load average 4.50 on 4 cores" in verdict(SETTINGS, **quiet | {"load": 4.5})["reasons"][0]
    steady = [measured(BASELINE, (3.0, 3.0, 3.0)), measured("sdpa", (2.0, 2.0, 2.0))]
    assert figures.unequal_losses(figures.finish(steady, SETTINGS, MACHINE), "float32") == []
    shaky = figures.figures(measured("sdpa", (2.0, 3.0, 4.0)), warmup=1, peak=None)
    text = verdict(SETTINGS, **quiet, spreads=[(page.row_name(shaky), shaky["spread"])])
    assert text["reasons"] == ["step times of sdpa spread by 33%"] and "at most 10%" in text["rule"]
    steady[1]["times"][0] = TIME | {"seconds": 1.0, "loss": 2.1}
    steady = figures.finish(steady, SETTINGS, MACHINE)
    assert "not compute the same loss" in figures.unequal_losses(steady, "float32")[0]


@pytest.mark.parametrize(
    ("row", "variant", "changes", "reason"),
    [
        ("flex", "group", {"device": "cpu"}, "no backward pass on a CPU"),
        ("flash", "group", {}, "causal only and group is not"),
        ("flash", "batch", {"flash_available": False}, "not installed"),
        ("flash", "batch", {"device": "cpu"}, "needs a CUDA device"),
        ("flash", "batch", {"precision": "float32"}, "not compute in float32"),
        ("flash", "batch", {}, None),
        ("flex-packed", "group", {}, None),
        ("sdpa-packed", "group", {"device": "cpu", "precision": "float32"}, None),
    ],
)
def test_rows_that_cannot_run_here_have_a_reason(row, variant, changes, reason):
    here = {"flash_available": True, "causal": VARIANTS[variant].streams == 1} | changes
    device, precision = here.pop("device", "cuda"), here.pop("precision", "bfloat16")
    settings = TrainBenchSettings(variant=variant, device=device, precision=precision)
    found = why_not(ROWS[row], settings, **here)
    assert (reason in found) if reason else found is None


def test_unknown_rows_and_kinds_and_what_a_cpu_cannot_do_are_refused():
    with pytest.raises(UserError, match="no row 'fast'.*dense-eager"):
        load_settings(TrainBenchSettings, flags={"rows": "sdpa,fast"})
    with pytest.raises(UserError, match="--data needs"):
        load_settings(TrainBenchSettings, flags={"data": "a.jsonl"})
    with pytest.raises(SystemExit) as stop:
        command.main(["swim"])
    assert stop.value.code == 2
    with pytest.raises(UserError, match="no CUDA device"):
        TrainBenchSettings(device="cuda").settled(cuda=False)
    assert TrainBenchSettings(precision="bf16").settled(cuda=False).precision == "bfloat16"
    assert TrainBenchSettings().settled(cuda=True).precision == "bfloat16"
    assert TrainBenchSettings().settled(cuda=False).train_vision is True, "as configs/train/toy.yaml"
    assert TrainBenchSettings(shape="3b").settled(cuda=True).train_vision is False


@pytest.mark.parametrize("variant", VARIANTS)
def test_made_up_samples_have_the_length_asked_for_and_every_arrangement_holds_all_of_them(variant):
    config = shape_config("0.2b", variant)
    made = MadeUp(config, tokens_per_step=6, seed=1)
    assert len(made.of_length(300).tokens) == 300 and made.grid == (2, 3)
    with pytest.raises(UserError, match="too few"):
        made.of_length(40)
    samples = MadeUp(config, 6, seed=1).of_seconds(2, 5, 7)
    again = MadeUp(config, 6, seed=1).of_seconds(2, 5, 7)
    assert all(torch.equal(a.pixel_values, b.pixel_values) for a, b in zip(samples, again, strict=True))
    total = sum(len(sample.tokens) for sample in samples)
    settings = TrainBenchSettings(batch_size=3, pack_tokens=150)
    for name, most in (("sdpa", 7), ("sdpa-padded", 3), ("sdpa-packed", 6)):
        batches = forwards(samples, ROWS[name], settings, Collator(0))
        assert sum(int((batch["video_grid_thw"][:, 0] > 0).sum()) for batch in batches) == 7
        ids = torch.cat([batch["input_ids"].flatten() for batch in batches])
        assert int((ids == MARKUP.video).sum()) == sum(int((s.input_ids == MARKUP.video).sum()) for s in samples)
        assert len(batches) <= most and ids.numel() >= total
    assert visible_pairs(samples[0], chunk=7) == int(samples[0].tokens.visible().sum())
    assert pack_tokens([100, 50]) == 1600 and pack_tokens([9000]) == 9000


def test_the_shapes_are_those_of_the_released_checkpoints():
    """Counted without making them: LLM without the tied head, vision tower with merger, in billions."""
    for shape, billions in (("3b", 3.75), ("7b", 8.29)):
        with torch.device("meta"):
            model = random_model(shape_config(shape, "group"), "sdpa", "meta", torch.bfloat16, seed=0)
        assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.01)
    assert set(SHAPES) == {"toy", "0.2b", "3b", "7b"}


def job(tiny_checkpoint, name, **changes):
    settings = TrainBenchSettings(
        model=str(tiny_checkpoint), samples=4, seconds=(2, 3), tokens_per_step=4, precision="float32", threads=1
    )
    return worker.RowTraining(replace(settings, **changes).settled(cuda=False), ROWS[name], None)


def test_all_rows_take_the_same_step(tiny_checkpoint):
    losses = {}
    for name in (BASELINE, "sdpa", "sdpa-padded", "sdpa-packed"):
        made = job(tiny_checkpoint, name, train_vision=True)
        assert made.counts["samples"] == 4
        losses[name] = [made.step()["loss"] for _ in range(2)]
        times = made.step()
        assert 0 < times["vision_seconds"] < times["seconds"]
        assert made.memory()["peak"] is None or made.memory()["peak"] > 10**7
    assert losses[BASELINE][1] != losses[BASELINE][0], "the optimizer did something"
    for name, values in losses.items():
        assert values == pytest.approx(losses[BASELINE], rel=1e-5), name


def test_a_worker_answers_until_told_to_end_and_says_what_it_cannot_do(tiny_checkpoint):
    settings = TrainBenchSettings(model=str(tiny_checkpoint), samples=2, seconds=(1, 2), tokens_per_step=4, threads=1)
    settings = settings.settled(cuda=False)
    ours, theirs = Pipe()
    for request in ("step", "end"):
        ours.send(request)
    worker.serve(settings, ROWS["sdpa-packed"], None, theirs)
    answers = [ours.recv() for _ in range(3)]
    assert [kind for kind, _ in answers] == ["ready", "step", "end"]
    assert answers[0][1]["forwards"] == 1 and answers[0][1]["loss_way"] == "chunked"
    worker.serve(settings, ROWS["sdpa"], 10, theirs)  # a sweep's sample that is too short
    kind, reason = ours.recv()
    assert kind == "cannot" and "too few for a step" in reason


@pytest.mark.slow
def test_the_program_writes_a_table_and_json(tiny_checkpoint, tmp_path, capsys):
    size = ["--model", str(tiny_checkpoint), "--samples", "3", "--seconds", "1,2", "--tokens-per-step", "4"]
    how = ["--threads", "1", "--warmup", "1", "--repeats", "2", "--rows", "dense-eager,sdpa-packed,flash"]
    assert command.main(["train", *size, *how, "--output", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "bench_train.json").read_text())
    eager, packed, flash = result["rows"]
    assert eager["times_baseline"] == 1 and packed["times_baseline"] > 0 and flash["not_measured"]
    assert len(packed["times"]) == 3 and packed["forwards"] == 1
    assert packed["times"][0]["loss"] == pytest.approx(eager["times"][0]["loss"], rel=1e-4)
    assert (tmp_path / "out" / "bench_train.md").read_text().strip() in capsys.readouterr().out
