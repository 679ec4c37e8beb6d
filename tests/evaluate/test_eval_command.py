"""The program: settings in, result files and a table out; with a fake model, except where a test says so."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from swwatch.cli import run as run_program
from swwatch.data.prompt import load_prompts
from swwatch.data.video import VideoError, read_clip
from swwatch.errors import UserError
from swwatch.evaluate.caption import command, measure
from swwatch.evaluate.caption.runner import ClipRequest
from swwatch.evaluate.caption.settings import CONFIG, ROOT, EvalSettings
from swwatch.evaluate.model import identity
from swwatch.metrics import captions
from swwatch.model.fingerprint import fingerprint
from swwatch.model.settings import Settings
from swwatch.narrate.words import Token
from swwatch.toy.world import make_scene, render
from tests.helpers.streams import at_fps

MODEL = {"dtype": torch.float32, "device": "cpu", "quantised": None}
SCENES = {f"clip{i}": make_scene(3, i) for i in range(4)}


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class World:
    """A test set of four toy clips, and stand-ins for model, video and narration that note what they are given."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.out, self.asked, self.loads, self.unreadable = folder, folder / "out", [], [], set()
        self.data = folder / "test_3_5.jsonl"
        self.records = [
            {"video_id": key, "human_caption": s.caption, "video_duration_in_s": s.duration_s, "events": s.record()}
            | {"video_path": f"videos/{key}.mp4"}
            for key, s in SCENES.items()
        ]
        self.data.write_text("".join(json.dumps(record) + "\n" for record in self.records))
        (folder / "videos").mkdir()
        for key in SCENES:
            (folder / "videos" / f"{key}.mp4").touch()
        self.model = folder / "model"
        self.model.mkdir()
        (self.model / "config.json").write_text("{}")
        for name in ("load_model", "iter_steps", "narration"):
            monkeypatch.setattr(measure, name, getattr(self, name))
        monkeypatch.setattr(captions, "java_problem", lambda: "no `java` on the PATH")
        for name in [name for name in os.environ if name.startswith("QWEN2_5_VL_")]:
            monkeypatch.delenv(name)

    def load_model(self, flags, path, ranks):
        self.loads.append((flags, path))
        if flags.variant not in (None, "group"):
            raise UserError("the checkpoint was trained with variant 'group'")
        schedule = flags.schedule or "wait-k:3"
        settings = Settings("group", schedule, "declared")
        return SimpleNamespace(settings=settings, model=SimpleNamespace(**MODEL))

    def iter_steps(self, path, *, max_frames, reader, fps):
        if path.stem in self.unreadable:
            raise VideoError(path, "it has no frames")
        yield SimpleNamespace(step=0, last=True)

    def narration(self, loaded, steps, **options):
        self.asked.append((loaded, list(steps), options))
        text = SCENES[options["clip_key"]].caption.replace("square", "circle")
        yield Token(step=0, token_id=5, newest_visible_step=0, t_frame_s=1.0, t_emit_s=1.2, text=text)

    def eval(self, *argv):
        places = ["--model-path", str(self.model), "--data-dir", str(self.data), "--output-dir", str(self.out)]
        return run_program(command.main, [*places, *argv])


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def test_a_run_writes_predictions_trace_metrics_and_prints_the_table(world, capsys):
    assert world.eval() == 0
    first = lines(world.out / "group_infer.json")[0]
    assert list(first) == ["video_id", "annotation", "task", "result", "messages"]
    assert first["messages"] == [
        {"type": "text", "value": "What is the scene and activity shown in this video?"},
        {"type": "video", "value": str(world.folder / "videos/clip0.mp4")},
    ]
    assert [row["video_id"] for row in lines(world.out / "group_trace.jsonl")] == list(SCENES)
    metrics = json.loads((world.out / "group_metrics.json").read_text())
    assert metrics["num_clips"] == 4 and metrics["num_skipped"] == 0 and metrics["settings"]["schedule"] == "wait-k:3"
    assert metrics["scores"]["corpus"]["METEOR"]["value"] is None and set(metrics["scores"]["per_clip"]) == set(SCENES)
    assert metrics["toy_events"]["color"] == metrics["toy_events"]["parses"] == 1 > metrics["toy_events"]["shape"]
    printed = capsys.readouterr().out
    assert "group, here" in printed and "group, paper 7B" in printed and "toy events told right" in printed


def test_nothing_that_narrates_is_given_the_reference(world):
    world.eval("--schedule", "random:3:seed=1", "--max-new-tokens", "77")
    assert len(world.asked) == 4
    for (_, _, options), record in zip(world.asked, world.records, strict=True):
        assert options == {
            "question": "What is the scene and activity shown in this video?",
            "system": "You are a helpful assistant.",
            "schedule": "random:3:seed=1",
            "limit": 77,
            "clip_key": record["video_id"],
        }
    assert not any(record["human_caption"] in repr(world.asked + world.loads) for record in world.records)


def test_max_count_takes_the_first_and_a_larger_one_continues(world):
    assert world.eval("--max-count", "2") == 0
    assert world.eval("--max-count", "3") == 0
    assert [options["clip_key"] for _, _, options in world.asked] == ["clip0", "clip1", "clip2"]


def test_another_schedule_or_changed_weights_or_data_need_another_output(world, capsys):
    assert world.eval() == 0
    assert world.eval("--schedule", "random:3:seed=0") == 2
    assert "schedule was 'wait-k:3', is 'random:3:seed=0'" in capsys.readouterr().err
    assert world.eval("--reader", "decord") == 2 and "reader was None, is 'decord'" in capsys.readouterr().err
    assert world.eval("--schedule", "random:3:seed=0", "--output-file", "random_infer.json") == 0
    (world.model / "model.safetensors").write_bytes(b"trained on")
    assert world.eval() == 2 and "model_fingerprint" in capsys.readouterr().err
    assert world.eval("--restart") == 0
    world.data.write_text(world.data.read_text().replace("moving", "going"))
    assert world.eval() == 2 and "data_sha256" in capsys.readouterr().err


def test_unreadable_and_missing_videos_are_skipped_counted_and_listed(world, capsys):
    world.unreadable = {"clip1"}
    (world.folder / "videos/clip3.mp4").unlink()
    assert world.eval("--max-bad-fraction", "0.5") == 0
    assert [row["video_id"] for row in lines(world.out / "group_skipped.jsonl")] == ["clip1", "clip3"]
    assert "2 clips scored, 2 skipped" in capsys.readouterr().out
    assert world.eval() == 2 and "1 of 4 clips cannot be read" in capsys.readouterr().err
    world.unreadable = set()
    assert world.eval("--max-bad-fraction", "0.25") == 0  # the mended clip counts; 1 of 4 is not above a quarter
    assert "3 clips scored, 1 skipped" in capsys.readouterr().out


def test_score_only_needs_no_model_and_scores_the_releases_files_too(world, capsys):
    world.eval()
    before = (world.out / "group_metrics.json").read_text()
    (world.out / "group_metrics.json").unlink()
    world.loads.clear()
    assert world.eval("--score-only", "--output-file", "group_infer.json") == 0
    assert (world.out / "group_metrics.json").read_text() == before and not world.loads
    rows = [json.dumps(row) for row in lines(world.out / "group_infer.json")]
    (world.out / "theirs.json").write_text("\n".join(rows))  # no line end at the end
    assert world.eval("--score-only", "--output-file", "theirs.json", "--variant", "group") == 0
    assert "4 clips scored" in capsys.readouterr().out
    assert world.eval("--score-only", "--variant", "gap") == 2
    assert "no predictions file" in capsys.readouterr().err


def test_environment_serves_where_no_flag_is_given(world, monkeypatch):
    for name, value in {
        "QWEN2_5_VL_VARIANT": "group",
        "QWEN2_5_VL_EVAL_MODEL_PATH": str(world.model),
        "QWEN2_5_VL_EVAL_DATA_DIR": str(world.folder),
        "QWEN2_5_VL_EVAL_IMG_ROOT": str(world.folder / "videos"),
        "QWEN2_5_VL_EVAL_OUTPUT_DIR": str(world.folder / "elsewhere"),
        "QWEN2_5_VL_EVAL_OUTPUT_FILE": "mine.json",
    }.items():
        monkeypatch.setenv(name, value)
    assert command.main([]) == 0 and world.loads[0][0].variant == "group"
    assert len(lines(world.folder / "elsewhere/mine.json")) == 4
    assert command.main(["--output-file", "flag.json"]) == 0 and (world.folder / "elsewhere/flag.json").exists()


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--variant", "gap"], "trained with variant 'group'"),
        (["--variant", "grupp"], "no variant 'grupp'"),
        (["--max-count", "0"], "max_count must be at least 1"),
        (["--max-new-tokens", "0"], "max_new_tokens must be at least 1"),
        (["--max-bad-fraction", "2"], "max_bad_fraction"),
        (["--data-dir", "nowhere.jsonl"], "no annotation file nowhere.jsonl"),
        (["--schedule", "sometimes"], "schedule 'sometimes'"),
        (["--config", "no.yaml"], "no.yaml"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(world, capsys, argv, message):
    assert world.eval(*argv) == 2
    assert message in capsys.readouterr().err


def test_an_output_file_may_be_a_path_as_in_the_release(world):
    path = world.folder / "else" / "where.json"
    assert world.eval("--output-file", str(path)) == 0
    assert len(lines(path)) == 4


def test_without_a_model_path_the_one_that_training_wrote_is_used(tmp_path, monkeypatch):
    from swwatch.evaluate.caption import settings

    monkeypatch.setattr(settings, "ROOT", tmp_path)
    with pytest.raises(UserError, match="which model.*none"):
        _ = EvalSettings().model
    for name in ("group", "gap"):
        (tmp_path / f"output/qwen2_5vl-pe-{name}").mkdir(parents=True)
        (tmp_path / f"output/qwen2_5vl-pe-{name}/config.json").touch()
    assert EvalSettings(variant="gap").model == str(tmp_path / "output/qwen2_5vl-pe-gap")
    with pytest.raises(UserError, match="qwen2_5vl-pe-gap, qwen2_5vl-pe-group"):
        _ = EvalSettings().model
    assert EvalSettings(model_path="some/hub").model == "some/hub"


def test_settings_file_holds_known_keys_and_the_protocols_values():
    from swwatch.config import load_settings

    assert load_settings(EvalSettings, yaml_path=CONFIG) == EvalSettings()
    assert EvalSettings().data_path == ROOT / "dataset" / "test_3_5.jsonl"
    assert (EvalSettings().max_count, EvalSettings().max_new_tokens) == (400, 300)


def write_clip(path, scene, fps=10):
    """A scene as a real mp4 file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width = scene.size
        for i in range(int(scene.duration_s * fps)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(render(scene, i / fps), format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("variant", ["group", "origin"])
def test_real_model_and_videos_give_the_same_captions_after_a_cut(tiny_checkpoint, tmp_path, monkeypatch, variant):
    monkeypatch.setattr(captions, "java_problem", lambda: "no `java` on the PATH")
    (tmp_path / "videos").mkdir()
    records = []
    for key, scene in list(SCENES.items())[:3]:
        write_clip(tmp_path / "videos" / f"{key}.mp4", scene)
        records.append({"video_id": key, "human_caption": scene.caption, "video_duration_in_s": scene.duration_s})
        records[-1] |= {"video_path": f"videos/{key}.mp4", "events": scene.record()}
    (tmp_path / "videos" / "clip1.mp4").write_bytes(b"")
    data = tmp_path / "test.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    argv = ["--model-path", str(tiny_checkpoint), "--variant", variant, "--data-dir", str(data), "--device", "cpu"]
    argv += ["--output-dir", str(tmp_path / "out"), "--max-new-tokens", "24", "--schedule", "random:2:seed=5"]
    argv += ["--max-bad-fraction", "0.5"]
    assert command.main(argv) == 0
    predictions, trace = tmp_path / "out" / f"{variant}_infer.json", tmp_path / "out" / f"{variant}_trace.jsonl"
    whole = predictions.read_bytes()
    assert [row["video_id"] for row in lines(predictions)] == ["clip0", "clip2"]
    for row in lines(trace):
        tokens, num_steps = row["tokens"], SCENES[row["video_id"]].duration_s
        assert 0 < len(tokens) <= 24 and all(t["newest_visible_step"] <= t["step"] < num_steps for t in tokens)
        assert all(t["t_emit_s"] >= t["t_frame_s"] for t in tokens)
        assert (len({t["step"] for t in tokens}) > 1) == (variant == "group")
    predictions.write_bytes(whole[:-30])
    assert command.main(argv) == 0
    assert predictions.read_bytes() == whole and len(lines(trace)) == 2


def test_fingerprint_follows_content_not_place(tmp_path):
    for name, weights in {"a": b"x" * 5_000_000, "b": b"x" * 5_000_000, "c": b"x" * 4_999_999 + b"y"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    a, b, c = (fingerprint(str(tmp_path / name), None) for name in "abc")
    assert a == b != c


def test_eval_sh_works_from_any_folder_and_passes_its_arguments_on(tmp_path):
    script = Path(ROOT) / "eval.sh"
    done = subprocess.run(
        ["bash", str(script), "--score-only", "--output-dir", "here", "--output-file", "x y.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and "there is no predictions file here/x y.json" in done.stderr


def test_the_frames_of_the_models_own_rate_are_read(load_tiny, clip, monkeypatch):
    loaded, seen = at_fps(load_tiny("group"), 1), []
    monkeypatch.setattr(measure, "narration", lambda loaded, steps, **options: map(seen.append, steps))
    list(measure.narrate_clip(ClipRequest("a", clip, "What?"), loaded, EvalSettings(), load_prompts()))
    frames = np.concatenate([step.frames for step in seen])
    assert np.array_equal(frames, read_clip(clip).frames[::2][: len(frames)]) and seen
    assert [step.arrival_s for step in seen] == [2.0 * i + 1 for i in range(len(seen))]
    assert identity("m", loaded)["fps"] == 1 and "fps" not in identity("m", load_tiny("group"))
