"""The roofline of live sessions, by hand where it can be, and against a record."""

import json
import re
from pathlib import Path

import pytest

from swwatch.bench.gpus import Gpu
from swwatch.cli import main
from swwatch.config import load_settings
from swwatch.errors import UserError
from swwatch.plan.live import CONTEXT, LivePlan, LivePlanSettings, Size, report, size_of
from swwatch.policies.choose import Greedy
from tests.helpers.streams import Paced, ToldSession, random_stream, spoken_by

ROOT = Path(__file__).parents[2]

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
    window = plan(1e12, 1e12, memory + 1, keep="window:5:text_sink=3:text_window=2")  # 45 tokens, keys twice
    assert (window.read_bytes, window.session_bytes, window.sessions_in_memory) == (90, 135, 7)
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


def cells(text: str) -> list[list[str]]:
    """Of all rows of tables."""
    return [re.split(r" *\| *", line.strip("| ")) for line in text.splitlines() if line.startswith("|")]


def test_the_page_tells_what_a_trusted_record_came_to():
    """docs/scale.md has plan, measurement and share of every part of docs/results/realtime_sweep.json."""
    record = ROOT / "docs" / "results" / "realtime_sweep.json"
    text = report(load_settings(LivePlanSettings, flags={"against": record}))
    assert ", trusted" in text
    found = {}
    for _, tokens, _, part, plan, measured, share in cells(text)[2:]:
        found.setdefault(tokens, {})[part] = f"{float(plan):.0f} of {float(measured):.0f} ms, {share}"
    wanted = [
        [tokens, *(parts[part] for part in ("look", "a word", "look and watch"))] for tokens, parts in found.items()
    ]
    section = (
        (ROOT / "docs" / "scale.md").read_text(encoding="utf-8").partition("## Watching")[2].partition("\n## ")[0]
    )
    assert len(wanted) == 4 and [row for row in cells(section) if row in wanted] == wanted


@pytest.mark.parametrize("keep", ["all", "window:8:text_sink=8:text_window=8"])
def test_a_session_holds_what_is_planned(tiny_checkpoint, load_tiny, keep):
    """Keys and values at its end, when its closing words are in as well."""
    loaded, steps = load_tiny("group"), 16
    stream = random_stream(loaded, [(4, 4)] * steps, prompt_len=8, answer_len=3 * steps)
    session = ToldSession(loaded.model, stream.prompt, keep=keep, choose=Greedy(1.0, 3 * steps)).tell(stream.answer)
    spoken_by(loaded.model, session, Paced(stream))
    size = {"model": str(tiny_checkpoint), "dtype": "float32", "prompt": 8}
    planned = session_bytes(**size, keep=keep, seconds=steps, video_tokens=16)
    assert 1 <= session.cache.nbytes / planned < 1.1


def test_streams_without_end_that_were_measured_held_what_is_planned():
    record = json.loads((ROOT / "docs" / "results" / "endless.json").read_text(encoding="utf-8"))
    asked, held = record["settings"], record["modes"]["serial"]["curve"]["cache"][-1]
    keep = f"window:{asked['vision_s']}:text_sink={asked['text_sink']}:text_window={asked['text_window']}"
    stream = {"video_tokens": asked["video_tokens"], "k": asked["tokens"], "seconds": asked["seconds"], "prompt": 30}
    planned = session_bytes(model=asked["shape"], dtype=asked["precision"], keep=keep, **stream)
    text = f"{held / 1000:.0f} KB where {planned / 1000:.0f} are planned"
    assert 0.9 < planned / held < 1 and text in (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def session_bytes(**flags) -> int:
    asked = load_settings(LivePlanSettings, flags=flags)
    return LivePlan(asked, size_of(asked), Gpu(1, 1, 1)).session_bytes
