"""The roofline of live sessions, by hand where it can be, and against a record."""

import json

import pytest

from swwatch.bench.gpus import Gpu
from swwatch.cli import main
from swwatch.config import load_settings
from swwatch.errors import UserError
from swwatch.plan.live import CONTEXT, LivePlan, LivePlanSettings, Size, report, size_of

# weights of 100 bytes, 50 parameters in the LLM and 10 in the tower; 2 bytes a token
SIZE = Size(120, {"weight_bytes": 100, "parameters": 50}, 10, 2, 4)


def plan(flops: float, bandwidth: float, memory: float = 1e12, **flags) -> LivePlan:
    flags = {"model": "toy", "video_tokens": 8, "k": 2, "seconds": 10, "prompt": 0} | flags
    return LivePlan(load_settings(LivePlanSettings, flags=flags), SIZE, Gpu(flops, bandwidth, memory))


def test_a_word_reads_the_weights_and_half_of_what_a_session_holds():
    found = plan(1e12, 100.0)
    assert found.session_bytes == 2 * 10 * (8 + 2)
    assert found.word_s(full=0) == 1.0
    assert found.word_s() == pytest.approx(2.0)  # (100 + 200 / 2) / 100
    assert found.word_s(3) == pytest.approx(4.0)


def test_looking_and_watching_are_bound_by_computing_where_memory_is_fast():
    found = plan(1000.0, 1e12)
    assert found.look_s() == pytest.approx(2 * 10 * 8 * 4 / 1000)
    assert found.watch_s() == pytest.approx(2 * 50 * 8 / 1000)
    assert found.step_s() == pytest.approx(0.64 + 0.8 + 2 * 0.1)
    assert (found.sessions_in_time, plan(1640.0, 1e12).sessions_in_time) == (0, 1)


def test_sessions_are_as_many_as_fit_into_memory_and_time():
    memory = (CONTEXT + 120 + 5 * 200) / 0.9
    assert plan(1e12, 1e12, memory + 1).sessions_in_memory == 5
    assert plan(1e12, 1e12, CONTEXT).sessions == 0
    assert plan(1e12, 1e12, memory + 1, window=5).sessions_in_memory == 10
    assert plan(1e5, 1e12, memory + 1).sessions == 5 and plan(5e3, 1e12, memory + 1).sessions == 3
    assert plan(1e12, 1e12, fps=4.0).settings.held_tokens == 2 * plan(1e12, 1e12).settings.held_tokens


def test_the_3b_shape_has_the_size_of_its_checkpoint():
    size = size_of(load_settings(LivePlanSettings, flags={"model": "Qwen/Qwen2.5-VL-3B-Instruct"}))
    assert size.weight_bytes == 2 * 3_754_622_976, "as the index of the released safetensors says"
    assert size.token_bytes == 2 * 36 * 2 * 128 * 2


def test_the_table_names_devices_and_this_one(capsys):
    assert main(["plan", "live", "--model", "toy", "--dtype", "float32", "--here"]) == 0
    out = capsys.readouterr().out
    assert all(f"| {name}" in out for name in ("H200", "H100", "A100", "L40S", "RTX 4090", "Apple", "this CPU"))


def test_a_record_is_told_beside_the_plan(tmp_path, capsys):
    point = {"shape": "toy", "video_tokens": 4, "k": 2, "steps": 5, "watch_s": 2.0, "speak_s": 2.0, "vision_s": 1.0}
    record = {"rates": {"flops": 1e6, "bandwidth": 1e6}, "shapes": {"toy": {"precision": "float32"}}}
    record |= {"points": [point], "verdict": {"trusted": False, "reasons": ["it was busy"]}}
    path = tmp_path / "bench_stream.json"
    path.write_text(json.dumps(record))
    assert main(["plan", "live", "--against", str(path)]) == 0
    out = capsys.readouterr().out
    assert "not trusted: it was busy" in out and "a word" in out and "1000.0" in out

    path.write_text("{}")
    with pytest.raises(UserError, match="give the bench_stream.json that"):
        report(load_settings(LivePlanSettings, flags={"against": path}))
