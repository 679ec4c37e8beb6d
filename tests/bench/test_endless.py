"""`swwatch bench endless` on the toy shape: what stays bounded, what does not; what is written, refused, cut short."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from swwatch import cli
from swwatch.bench import command
from swwatch.bench.endless import measure as endless
from swwatch.bench.endless.modes import MODES
from swwatch.bench.endless.page import report
from swwatch.bench.endless.settings import EndlessBenchSettings
from swwatch.config import load_settings
from swwatch.data.turns.prompt import Turns
from swwatch.data.video import iter_steps
from swwatch.errors import UserError
from swwatch.model.dummy import DummyTokenizer
from swwatch.model.settings import Settings
from swwatch.rules.systems import SYSTEMS
from swwatch.toy.clips import Recipe, write_dataset

SECONDS = 24
SMALL = {"seconds": SECONDS, "video_tokens": 4, "tokens": 4, "vision_s": 4, "restart_s": 6.0, "flush_s": 6.0}
SMALL |= {"text_sink": 3, "text_window": 5, "device": "cpu", "threads": 1}
BOUNDED = ("serial", "fused", "sink_window", "recompute")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(folder, result) of one small run of all modes."""
    folder = tmp_path_factory.mktemp("bench")
    flags = [word for key, value in SMALL.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    assert command.main(["endless", *flags, "--output", str(folder)]) == 0
    return folder, json.loads((folder / "bench_endless.json").read_text())


def curves(result, name: str) -> list:
    return result["modes"][name]["curve"]


def test_every_mode_comes_to_the_end_and_tells_every_second(written):
    _, result = written
    assert list(result["modes"]) == list(MODES)
    for name, mode in result["modes"].items():
        assert mode["reached_s"] == SECONDS and mode["ended"] is None, name
        first = 3 if name == "flush" else 1  # LiveCC's first turn has three seconds
        assert mode["curve"]["at_s"] == list(range(first, SECONDS + 1)), name
        assert {len(column) for column in mode["curve"].values()} == {SECONDS - first + 1}
        assert all(seconds > 0 for key in ("step_s", "gap_s") for seconds in mode["curve"][key])


@pytest.mark.parametrize("name", BOUNDED)
def test_windows_hold_memory_and_positions_down(written, name):
    curve = curves(written[1], name)
    for quantity in ("held", "cache", "position", "fed"):
        late = curve[quantity][-8:]
        assert max(late) == min(late) == max(curve[quantity][-12:]), quantity


def test_full_attention_grows_by_as_much_every_second(written):
    curve = curves(written[1], "full")
    steps = [b - a for a, b in zip(curve["held"][1:], curve["held"][2:], strict=False)]
    assert min(steps) > 4 + 4 and max(steps) - min(steps) <= 2  # a digit more for both ends of a label
    assert curve["position"][-1] > curve["position"][9] > curve["position"][0]
    assert curve["held"][-1] > 3 * curves(written[1], "sink_window")["held"][-1]


def test_a_window_without_overlap_and_a_flush_are_saw_teeth(written):
    restart, flush = (curves(written[1], name) for name in ("restart", "flush"))
    falls = [at for at, a, b in zip(restart["at_s"][1:], restart["held"], restart["held"][1:], strict=False) if b < a]
    assert falls == [7, 13, 19]
    fed = dict(zip(flush["at_s"], flush["fed"], strict=True))
    again = [at for at in fed if at > 3 and fed[at] > 2 * fed[5]]
    assert again == [7, 13, 19], "all text is read anew when the video goes"
    assert flush["held"][-1] > flush["held"][6], "text stays"


def test_only_recompute_feeds_what_it_holds_and_the_others_what_is_new(written):
    fed = {name: curves(written[1], name)["fed"][-1] for name in MODES}
    held = curves(written[1], "recompute")["held"][-1]
    assert fed["recompute"] == held > 2 * fed["sink_window"]
    assert fed["sink_window"] == fed["full"] == fed["restart"]
    assert fed["serial"] == fed["fused"] == SMALL["video_tokens"] + SMALL["tokens"]


def test_serial_and_fused_hold_the_same(written):
    serial, fused = (curves(written[1], name) for name in ("serial", "fused"))
    assert serial["position"][-1] == fused["position"][-1]
    assert 0 <= fused["held"][-1] - serial["held"][-1] <= SMALL["video_tokens"], "the step ahead, at most"


def test_the_page_tells_it_and_is_drawn_again_from_the_file(written, tmp_path, capsys):
    folder, result = written
    assert result["command"].startswith("swwatch bench endless --seconds 24")
    assert {"commit", "cpu", "cores", "load", "clocks", "torch", "time"} <= result["begin"].keys()
    assert {"trusted", "reasons", "rule"} <= result["verdict"].keys()
    page = (folder / "bench_endless.md").read_text()
    assert page.strip() == report(result)
    for word in ("Verdict", "## Modes", "## Keys and values", "## Largest position", "Real time needs 4 tokens"):
        assert word in page
    assert command.main(["endless", "--report", str(folder / "bench_endless.json"), "--output", str(tmp_path)]) == 0
    assert (tmp_path / "bench_endless.md").read_text() == page and page.strip() in capsys.readouterr().out
    figures = sorted(path.name for path in folder.glob("*.png"))
    assert len(figures) == 6
    for name in figures:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_mode_that_takes_too_long_is_stopped_and_says_so(tmp_path):
    settings = load_settings(EndlessBenchSettings, flags=SMALL | {"modes": "full", "mode_s": 1e-9}).settled(cuda=False)
    result = endless.measure(settings, "swwatch bench endless")
    mode = result["modes"]["full"]
    assert mode["reached_s"] == 1 and "stopped at second 1" in mode["ended"] and mode["ended"] in report(result)


def test_a_run_that_is_stopped_keeps_what_it_has(monkeypatch):
    play, calls = endless.play, []

    def stop(*arguments, **more):
        calls.append(play(*arguments, **more))
        if len(calls) == 3:  # the first mode's warm-up and run, the second one's warm-up
            os.kill(os.getpid(), signal.SIGTERM)
        return calls[-1]

    monkeypatch.setattr(endless, "play", stop)
    before = signal.getsignal(signal.SIGTERM)
    settings = load_settings(EndlessBenchSettings, flags=SMALL | {"modes": "fused,serial", "seconds": 6}).settled(
        cuda=False
    )
    result = endless.measure(settings, "swwatch bench endless")
    assert list(result["modes"]) == ["serial"] and signal.getsignal(signal.SIGTERM) is before
    assert "stopped from outside" in report(result)


def test_a_checkpoint_watches_a_real_video_and_says_its_own_words(tiny_checkpoint, tmp_path):
    write_dataset(tmp_path / "clips", Recipe(1, 1, 0), workers=1)
    video = next((tmp_path / "clips").rglob("*.mp4"))
    flags = {"model": str(tiny_checkpoint), "video": str(video), "device": "cpu", "tokens": 3, "vision_s": 2}
    settings = load_settings(EndlessBenchSettings, flags=flags | {"modes": "fused,sink_window"}).settled(cuda=False)
    result = endless.measure(settings, "swwatch bench endless")
    page = report(json.loads(json.dumps(result)))
    seconds = sum(1 for _ in iter_steps(video))
    assert result["settings"]["seconds"] == seconds > 4 and result["video_tokens"] > 0
    said = {}
    for name, mode in result["modes"].items():
        curve = mode["curve"]
        assert curve["at_s"] == list(range(1, seconds + 1)) and mode["ended"] is None, name
        said[name] = [
            round(step_s / token_s) for step_s, token_s in zip(curve["step_s"], curve["token_s"], strict=True)
        ]
    assert set(said["fused"]) == {3} and max(said["sink_window"]) > 3, "a chat system says as much as it wants"
    assert str(tiny_checkpoint) in page and video.name in page and "random weights" not in page
    assert "whatever is said in it" in page


def test_a_mode_may_be_a_variant_and_what_it_keeps():
    modes = "group:rekv:2:vision_s=2,streamingvlm:carrier:2"
    settings = load_settings(EndlessBenchSettings, flags=SMALL | {"modes": modes, "seconds": 8}).settled(cuda=False)
    result = endless.measure(settings, "swwatch bench endless")
    rekv, carrier = (curves(result, name) for name in modes.split(","))
    assert rekv["at_s"] == carrier["at_s"] == list(range(1, 9))
    assert rekv["host"][:2] == [0, 0] and rekv["host"][-1] == 6 * rekv["host"][2] > 0 == max(carrier["host"])
    assert "Parked in host memory" in report(result) and "streamingvlm that keeps carrier:2" in report(result)


def test_a_checkpoint_runs_the_modes_of_its_variant(tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["swwatch"] = Settings.resolve(None, variant="streamingvlm").as_dict()
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    settings = EndlessBenchSettings(model=str(tmp_path / "model"))
    assert settings.settled(cuda=False).modes == ("sink_window", "recompute", "restart", "full")
    with pytest.raises(UserError, match="trained as 'streamingvlm': it has no mode 'flush', but sink_window"):
        replace(settings, modes=("flush",)).settled(cuda=False)
    for more, words in (
        ({"video": tmp_path / "a.mp4"}, "give --model, too"),
        ({"model": str(tiny_checkpoint), "video": tmp_path / "a.mp4"}, "there is no such file"),
        ({"model": str(tiny_checkpoint), "shape": "toy"}, "give one of them"),
    ):
        with pytest.raises(UserError, match=words):
            EndlessBenchSettings(**more)


def test_a_long_curve_is_thinned_and_keeps_its_peaks():
    rows = [
        (i + 1.0, 1.0 + (i == 7), 0.5, 0.1, 0.1 if i % 3 else None, 3, i, 8 * i, 0, None, i % 5) for i in range(700)
    ]
    seconds = [dict(zip(endless.COLUMNS, row, strict=True)) for row in rows]
    curve = endless.thinned(seconds)
    assert len(curve["at_s"]) <= endless.POINTS and curve["at_s"][-1] == 700 and curve["held"][-1] == 699
    assert set(curve["step_s"]) == {1.0} and curve["memory"][0] is None and max(curve["position"]) == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"modes": "full,fast"}, "no mode 'fast'.*sink_window"),
        ({"modes": "interleave:all"}, "'interleave' has no endless form.*group.*livecc"),
        ({"modes": "group:restart:4"}, "'group' cannot be kept so"),
        ({"modes": "serial,group:rekv", "keep": "recent"}, "group:rekv keeps what it is named for"),
        ({"shape": "9b"}, "no shape '9b'.*toy"),
        ({"variant": "interleave"}, "no endless form.*overlap"),
        ({"tokens": "2"}, "tokens must be at least 3"),
        ({"seconds": "2"}, "seconds must be at least 5"),
        ({"vision_s": "0"}, "vision_s must be above 0"),
        ({"text_sink": "-1"}, "text_sink must be at least 0"),
    ],
)
def test_what_makes_no_sense_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        load_settings(EndlessBenchSettings, flags=given)


def test_a_device_that_is_not_there_and_a_file_that_is_none_are_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="no CUDA device"):
        EndlessBenchSettings(device="cuda").settled(cuda=False)
    other = tmp_path / "other.json"
    other.write_text("{}")
    assert cli.main(["bench", "endless", "--report", str(other)]) == 2
    assert "is not a file that" in capsys.readouterr().err


def test_on_a_gpu_the_papers_sizes_are_the_default():
    chosen = EndlessBenchSettings().settled(cuda=True)
    assert (chosen.shape, chosen.seconds, chosen.precision, chosen.device) == ("7b", 1000, "bfloat16", "cuda")
    assert (chosen.vision_s, chosen.text_sink, chosen.text_window, chosen.restart_s) == (16, 512, 512, 100)
    assert EndlessBenchSettings(text_sink=0).settled(cuda=True).text_sink == 0


def test_the_made_up_tokenizer_gives_text_back_and_cuts_labels_as_the_real_one():
    pieces = DummyTokenizer()
    text = "<|im_start|>user\nTime=10.0-11.0s<|vision_start|>Commentate on this match ..."
    assert pieces.decode(pieces.encode(text)) == text
    turn = Turns(pieces, SYSTEMS["streamingvlm"]).turn(0, 1234.0, 1235.0, (1, 1, 1))
    assert len(turn[1]) == 16  # as Qwen2.5's: digits one by one


def test_it_needs_no_video_decoder_data_sets_or_training():
    """A borrowed GPU machine may have none of them."""
    code = "import sys, swwatch.bench.endless.measure, swwatch.bench.endless.plots\n"
    code += (
        "print([m for m in ('decord', 'qwen_vl_utils', 'datasets', 'deepspeed', 'av', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
