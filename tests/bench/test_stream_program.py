"""`swwatch bench stream` as a program, on the toy shape: what it refuses, what it writes, what it draws again."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from swwatch import cli
from swwatch.bench import command
from swwatch.bench.inputs import PROMPT_LEN
from swwatch.bench.stream import measure as stream
from swwatch.bench.stream.bounds import reprefill_tokens, serial_tokens
from swwatch.bench.stream.page import left_out, report
from swwatch.bench.stream.settings import BASELINE, ENGINES, StreamBenchSettings, points
from swwatch.config import load_settings
from swwatch.errors import UserError

SMALL = [
    "--shape",
    "toy",
    "--video-tokens",
    "4,6",
    "--k",
    "2",
    "--steps",
    "5",
    "--repeats",
    "2",
    "--sweep-repeats",
    "2",
    "--threads",
    "1",
]
PARTS = [
    "--sustain",
    "--hold-s",
    "0.05",
    "--queue",
    "2",
    "--session-steps",
    "3",
    "--soak",
    "0.01",
    "--soak-rate",
    "50",
]
RUNNING = ("serial", "fused", BASELINE)
MARKUP_LEN = {"prompt": PROMPT_LEN, "suffix": 3, "header": 3}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(folder, result) of one small run with all its parts."""
    folder = tmp_path_factory.mktemp("bench")
    engines = ["--engines", ",".join(RUNNING)]
    assert command.main(["stream", *SMALL, *PARTS, *engines, "--device", "cpu", "--output", str(folder)]) == 0
    return folder, json.loads((folder / "bench_stream.json").read_text())


def test_every_engine_says_the_same_and_feeds_what_the_formulas_tell(written):
    _, result = written
    assert [(p["video_tokens"], p["k"], p["steps"]) for p in result["points"]] == [(4, 2, 5), (6, 2, 5)]
    for point in result["points"]:
        sizes = [point[key] for key in ("video_tokens", "k", "steps")]
        assert set(point["engines"]) == set(RUNNING)
        for name, row in point["engines"].items():
            assert row["same_tokens"] == row["num_tokens"] == 10, name
            counted = reprefill_tokens if name == BASELINE else serial_tokens
            assert row["fed"] == counted(*sizes, **MARKUP_LEN), name


def test_the_file_holds_all_that_a_figure_must_carry(written):
    _, result = written
    assert result["command"].startswith("swwatch bench stream --shape toy")
    assert {"commit", "cpu", "cores", "load", "clocks", "torch", "time"} <= result["begin"].keys() & result[
        "end"
    ].keys()
    assert result["rates"]["bandwidth"] > 0 and result["rates"]["flops"] > 0
    assert result["shapes"]["toy"]["llm"]["weight_bytes"] == 4 * result["shapes"]["toy"]["llm"]["parameters"]
    assert {"trusted", "reasons", "rule"} <= result["verdict"].keys()
    for point in result["points"]:
        assert 1 <= point["bound"] <= 2 and point["decode_share"] > 0 and point["watch_s"] > point["vision_s"] > 0
        for row in point["engines"].values():
            assert row["step_s"] > 0 and row["first_token_s"] > 0 and len(row["step_times"]) == 3 and row["runs"] == 2
            assert row["gain"] > 0 and row["times_reprefill"] > 0 and row["gap_s"]["while_watching"]["p99"] > 0
    assert {row["pace"] for row in result["paced"]} == {"2 frames a second", "90 % of serial"}
    assert all(row["staleness_s"]["p95"] > 0 for row in result["paced"])
    assert {row["engine"] for row in result["sustain"]} == set(RUNNING)
    assert all(trial["steps"] >= 12 for row in result["sustain"] for trial in row["trials"])
    (soak,) = result["soak"]
    assert soak["steps"] == 30 and soak["periods"][-1]["position"] > soak["periods"][0]["position"]
    assert soak["periods"][-1]["cache"] > soak["periods"][0]["cache"] > 0


def test_the_page_tells_it_and_is_drawn_again_from_the_file(written, tmp_path, capsys):
    folder, result = written
    page = (folder / "bench_stream.md").read_text()
    assert page.strip() == report(result)
    for word in ("## toy: 4 video tokens", "the paper's bound", "Verdict", "| serial ", "Staleness", "Highest rate"):
        assert word in page
    for text in page.split("\n\n"):
        if text.startswith("|"):
            assert len({line.count("|") for line in text.splitlines()}) == 1
    assert command.main(["stream", "--report", str(folder / "bench_stream.json"), "--output", str(tmp_path)]) == 0
    assert (tmp_path / "bench_stream.md").read_text() == page and page.strip() in capsys.readouterr().out
    for name in ("gain", "cost"):
        ours, theirs = ((where / f"bench_stream_{name}.png").read_bytes() for where in (folder, tmp_path))
        assert ours == theirs and len(ours) > 5000


def test_a_stream_without_end_is_measured_by_engines_that_forget():
    keep = "window:2:text_sink=2:text_window=4"
    how = {"shape": ("toy",), "variant": "group", "engines": ("serial", "fused", "streams"), "keep": keep}
    settings = StreamBenchSettings(**how, video_tokens=(4,), k=(2,), steps=(6,), repeats=1).settled(cuda=False)
    result = stream.measure(replace(settings, paced=False), "swwatch bench stream")
    rows = result["points"][0]["engines"]
    assert {name for name, row in rows.items() if "step_s" in row} == {"serial", "fused"}
    assert all(rows[name]["same_tokens"] == rows[name]["num_tokens"] == 12 for name in ("serial", "fused"))
    assert result["settings"]["keep"] == keep
    assert f"streams forgets nothing, and keep {keep} does" in "\n".join(left_out(result))


def test_what_cannot_run_is_listed_with_its_reason(tmp_path):
    settings = StreamBenchSettings(
        shape=("toy",), variant="interleave", video_tokens=(4,), k=(1,), steps=(4,), repeats=1
    ).settled(cuda=False)
    result = stream.measure(replace(settings, paced=False), "swwatch bench stream")
    rows = result["points"][0]["engines"]
    assert list(rows) == list(ENGINES)
    assert {name for name, row in rows.items() if "step_s" in row} == {"serial", BASELINE}
    assert rows[BASELINE]["same_tokens"] == 4
    listed = "\n".join(left_out(result))
    for name in ("fused", "streams", "two_device"):
        assert f"{name}: the engine '{name}' cannot run the variant 'interleave'" in listed
    assert report(result).count("not measured") >= 3


def test_three_parties_are_measured_against_their_bound_and_who_does_not_think_is_left_out():
    settings = StreamBenchSettings(
        shape=("toy",),
        think="notes:2",
        engines=("serial", "fused", BASELINE),
        video_tokens=(4,),
        k=(2,),
        steps=(5,),
        repeats=1,
    ).settled(cuda=False)
    result = stream.measure(replace(settings, paced=False), "swwatch bench stream")
    point, page = result["points"][0], report(result)
    assert "thinks nothing" in point["engines"][BASELINE]["not_measured"]
    serial, fused = (point["engines"][name] for name in ("serial", "fused"))
    assert fused["fed"] == serial["fed"] > serial_tokens(4, 2, 5, **MARKUP_LEN) + 4 * 2, "and what begins a note"
    assert fused["same_tokens"] == 10 and serial["think_s"] > 0 == fused["think_s"], "they ride"
    parties = [point[name] for name in ("watch_s", "speak_s", "think_s")]
    assert point["bound"] == pytest.approx(sum(parties) / max(parties)) and "c, thinking" in page
    with pytest.raises(UserError, match="give one of them"):
        replace(settings, fast=True).settled(cuda=False)


def test_what_takes_too_long_or_comes_too_late_is_listed(tmp_path):
    given = {"shape": ("toy",), "video_tokens": (4, 6), "k": (2,), "steps": (5,), "repeats": 1}
    settings = StreamBenchSettings(**given, engines=("serial", BASELINE), limit_s=1e-9, max_engine_s=1e-9).settled(
        cuda=False
    )
    result = stream.measure(settings, "swwatch bench stream")
    assert "more than --max-engine-s 1e-09" in result["points"][0]["engines"]["serial"]["not_measured"]
    assert len(result["points"]) == 1
    settings = replace(settings, max_engine_s=100.0, engines=("serial",))
    result = stream.measure(settings, "swwatch bench stream")
    assert [part["part"] for part in result["left_out"]] == ["toy: paced runs", "toy, 6 video tokens, K = 2, 5 steps"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"engines": "serial,fast"}, "no engine 'fast'.*fused"),
        ({"engines": "fused"}, "told against serial"),
        ({"shape": "9b"}, "no shape '9b'.*toy"),
        ({"variant": "origin"}, "speaks after the whole video.*group"),
        ({"shape": "toy", "model": "x"}, "give one of them"),
        ({"video_tokens": "64,0"}, "video_tokens must be at least 1"),
        ({"steps": "3"}, "steps must be at least 4"),
        ({"hold_s": "0"}, "hold_s must be above 0"),
        ({"soak": "-1"}, "soak must be at least 0"),
    ],
)
def test_what_makes_no_sense_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        load_settings(StreamBenchSettings, flags=given)


def test_a_device_that_is_not_there_and_a_file_that_is_none_are_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="no CUDA device"):
        StreamBenchSettings(device="cuda").settled(cuda=False)
    other = tmp_path / "other.json"
    other.write_text("{}")
    for path in (other, tmp_path / "missing.json"):
        assert cli.main(["bench", "stream", "--report", str(path)]) == 2
    assert capsys.readouterr().err.count("is not a file that") == 2


def test_the_base_comes_first_and_the_others_vary_one_by_one_or_in_all_combinations():
    lists = {"shape": ("toy", "0.2b"), "video_tokens": (64, 16), "k": (3, 1), "steps": (30, 10)}
    few = points(StreamBenchSettings(**lists).settled(cuda=False))
    assert len(few) == 2 * 4 and str(few[0]) == "toy, 64 video tokens, K = 3, 30 steps"
    assert [(p.video_tokens, p.k, p.steps) for p in few[:4]] == [(64, 3, 30), (64, 3, 10), (16, 3, 10), (64, 1, 10)]
    every = points(StreamBenchSettings(**lists, full=True).settled(cuda=False))
    assert len(every) == len(set(every)) == 2 * 8 and every[0] == few[0]
    default = StreamBenchSettings().settled(cuda=True)
    assert default.shape == ("7b",) and default.precision == "bfloat16" and default.fast and default.device == "cuda"
    assert StreamBenchSettings(full=True).settled(cuda=False).video_tokens == (64, 16, 128, 256, 512, 1024)


def test_a_run_that_is_stopped_keeps_what_it_has(monkeypatch):
    settings = StreamBenchSettings(
        shape=("toy",), video_tokens=(4, 6), k=(1,), steps=(4,), repeats=1, engines=("serial",)
    ).settled(cuda=False)
    paced = stream.Measurement.paced

    def stop(*arguments):
        paced(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(stream.Measurement, "paced", stop)
    before = signal.getsignal(signal.SIGTERM)
    result = stream.measure(settings, "swwatch bench stream")
    assert len(result["points"]) == 1 and len(result["paced"]) == 2 and signal.getsignal(signal.SIGTERM) is before
    assert result["left_out"] == [{"part": "what was still to come", "reason": "stopped from outside"}]


def test_a_checkpoint_is_measured_in_place_of_a_shape(tiny_checkpoint):
    settings = load_settings(StreamBenchSettings, flags={"model": str(tiny_checkpoint), "engines": "serial,fused"})
    settings = replace(settings, video_tokens=(4,), k=(1,), steps=(4,), repeats=1, paced=False).settled(cuda=False)
    result = stream.measure(settings, "swwatch bench stream")
    assert list(result["shapes"]) == [str(tiny_checkpoint)]
    assert all(row["step_s"] > 0 for row in result["points"][0]["engines"].values())


def test_it_needs_no_video_decoder_data_sets_or_training():
    """A borrowed GPU machine may have none of them."""
    code = "import sys, swwatch.bench.stream.measure, swwatch.bench.stream.plots\n"
    code += "import swwatch.model.cuda_graph_model, swwatch.engine.fused\n"
    code += (
        "import swwatch.bench.live.measure, swwatch.bench.endless.measure; from swwatch.data.budget import BUDGETS\n"
    )
    code += "BUDGETS['declared'].size(720, 1280, None)\n"
    code += (
        "print([m for m in ('decord', 'qwen_vl_utils', 'datasets', 'deepspeed', 'av', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.gpu
def test_on_a_gpu_the_fast_path_says_what_the_serial_engine_says(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    engines = ["--engines", "serial,fused,streams", "--precision", "float32"]
    assert command.main(["stream", *SMALL, *engines, "--device", "cuda", "--output", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "bench_stream.json").read_text())
    for row in result["points"][0]["engines"].values():
        assert row["same_tokens"] == row["num_tokens"]
