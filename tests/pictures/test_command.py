"""Pictures and tables of a variant say what the layout says."""

import json

import numpy as np
import pytest

from swwatch.errors import UserError, run
from swwatch.model.loading import load
from swwatch.pictures import decided
from swwatch.pictures.command import InspectSettings, main
from swwatch.pictures.sample import arrival_order
from swwatch.pictures.seen import SeenStep, seen_steps, veiled
from swwatch.pictures.show import table
from swwatch.rules.cursor import layout
from swwatch.rules.layout import Kind
from swwatch.rules.patch import Patch
from swwatch.rules.variants import VARIANTS
from swwatch.toy.checkpoint import make_checkpoint


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_picture_is_drawn(variant, tmp_path, capsys):
    assert main(["--variant", variant, "--out", str(tmp_path), "--steps", "2", "--answer-len", "5"]) == 0
    picture = tmp_path / f"{variant}.png"
    assert capsys.readouterr().out.strip() == str(picture)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_table_has_a_line_a_token_with_its_positions():
    tokens = layout("gap", 2, [(1, 2)] * 2, 4)
    lines = table(tokens).splitlines()[1:]
    assert len(lines) == len(tokens)
    assert lines[-1].split() == ["15", "answer", "1", "10006", "10006", "10006", "16"]


def test_arrival_order_alternates_watching_and_speaking_in_parallel_variants():
    tokens = layout("group", 2, [(1, 1)] * 3, 8)
    kinds = [tokens.kind[i] for i in arrival_order("group", tokens)]
    assert kinds[2] == Kind.VIDEO and kinds[3:6] == [Kind.HEADER] * 3 and kinds[6:9] == [Kind.ANSWER] * 3
    assert kinds[9] == Kind.VIDEO
    offline = layout("origin", 2, [(1, 1)] * 3, 8)
    assert arrival_order("origin", offline).tolist() == list(range(len(offline)))


@pytest.mark.parametrize("flags", [["--grid", "two"], ["--steps", "0"], ["--steps", "99", "--grid", "9x9"]])
def test_bad_sizes_say_what_to_do(flags, tmp_path):
    with pytest.raises(UserError, match="write|at least|choose"):
        main([*flags, "--out", str(tmp_path)])


def test_what_a_policy_leaves_of_a_video_is_drawn_and_told(tiny_checkpoint, clip, tmp_path, capsys):
    how = ["--video", str(clip), "--model", str(tiny_checkpoint), "--variant", "group", "--out", str(tmp_path)]
    assert main(["--see", "dtd_pixels:9", *how, "--text"]) == 0
    counts = [line.split() for line in capsys.readouterr().out.splitlines()]
    (first, whole, arrived), (second, left, _), total = counts[1], counts[2], counts[3]
    assert (first, second) == ("0", "1") and whole == arrived and left == "0", "nothing differs by 9 deviations"
    assert total == [whole, "of", str(2 * int(arrived)), "tokens", "are", "left"]
    assert main(["--see", "flash:0.5", *how]) == 0
    assert (tmp_path / "flash.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_what_was_dropped_or_not_computed_is_grey_and_the_rest_as_it_is():
    frame, all_of_it = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3), np.ones((2, 3))
    drawn = veiled(SeenStep(frame, Patch(2, 3, (0, 5)), all_of_it))
    same = (drawn == frame).all(2)
    assert same[:2, :2].all() and same[2:, 4:].all() and same.sum() == 8
    assert (veiled(SeenStep(frame, Patch(2, 3), all_of_it)) == frame).all()
    half = np.array([[1, 0.5, 1], [1, 1, 1]])
    grey = (veiled(SeenStep(frame, Patch(2, 3), half)) != frame).any(2)
    assert grey[:2, 2:4].all() and grey.sum() == 4


def test_of_a_policy_that_reuses_a_quarter_is_computed_between_references(made_once, clip):
    path = made_once("qwen2_vl-8", lambda folder: make_checkpoint(folder, family="qwen2_vl"))
    loaded = load(path, variant="group", device="cpu", see="stc_cacher:2:update=0.25")
    steps = list(seen_steps(loaded, clip, 4))
    shares = [step.computed.mean() for step in steps]
    places = steps[0].patch.num_arrived * loaded.model.config.vision_config.spatial_merge_size**2
    between = round(0.25 * places) / places
    assert shares == pytest.approx([1, between, 1, between][: len(steps)]) and len(steps) > 1


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--see", "dtd:0.5"], "go together"),
        (["--video", "x.mp4"], "go together"),
        (["--sheet", "speak", "--model", "x/y"], "go together"),
        (["--keep", "window"], "give --model"),
        (["--keep", "window", "--sheet", "keep", "--model", "x/y"], "give one of them"),
        (["--keep", "window", "--model", "x/y", "--variant", "interleave"], "overlap, group, gap"),
        (["--keep", "window", "--model", "x/y", "--seconds", "99"], "5 to 90"),
        (["--keep", "window", "--model", "x/y", "--text"], "leave it out"),
        (["--see", "dtd:0.5", "--model", "x/y", "--video", "nowhere.mp4"], "no such file"),
    ],
)
def test_a_policy_needs_a_video_and_a_model(flags, what):
    with pytest.raises(UserError, match=what):
        main(flags)


def test_how_a_schedule_speaks_over_a_video_is_drawn(tiny_checkpoint, clip, tmp_path, capsys):
    how = ["--video", str(clip), "--model", str(tiny_checkpoint), "--out", str(tmp_path)]
    assert main(["--schedule", "burst:2:every=2", "--variant", "group", *how]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "speak_burst.png")
    loaded = load(tiny_checkpoint, variant="group", device="cpu")
    told = decided.played(loaded, clip, "change:2:share=0.5", 3)
    assert [line["num_tokens"] for line in told if line.get("event") == "decided"][0] == 2
    said = [line["step"] for line in told if "token_id" in line]
    assert said[:2] == [0, 0] and max(said) <= max(decided.arrivals_of(told)), "nothing after the last step is drawn"
    with pytest.raises(UserError, match="cannot speak by sved"):
        main(["--schedule", "sved", "--variant", "interleave", *how])


def test_a_sheet_says_why_a_schedule_has_no_picture(tiny_checkpoint, clip, tmp_path, monkeypatch):
    settings = InspectSettings(video=clip, model=str(tiny_checkpoint), sheet="speak", variant="interleave", steps=2)
    lines, why = decided.attempt(settings, "interleave", "sved:12")
    assert not lines and "'interleave' cannot speak by sved" in why
    decided.draw_sheet([("sved:12", lines, why)], tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 3000
    figure, (axis, *_) = decided.sheet(1, 1, (3, 2))
    told = [{"event": "watched", "step": 0, "arrival_s": 0.5}, {"event": "watched", "step": 1, "arrival_s": 1.5}]
    told += [
        {"event": "decided", "step": step, "why": {"not_yet": chance}}
        for step, chance in ((0, None), (1, 0.3), (2, 1))
    ]
    decided.draw_why(axis, told, 5)
    (line,) = axis.lines
    assert line.get_xdata().tolist() == [0.5, 1.5] and line.get_ydata()[1] == 0.3, "of steps that arrived"


def test_what_a_schedule_decided_is_drawn_from_what_a_stream_told(tmp_path, capsys):
    told = [{"event": "watched", "step": i, "arrival_s": i + 0.5, "t_s": i + 0.6} for i in range(4)]
    told += [{"event": "decided", "step": i, "num_tokens": 2 * (i == 1), "why": {"not_yet": 0.9}} for i in range(4)]
    told += [{"step": 1, "token_id": 7, "text": " a"}, {"step": 1, "token_id": 8, "text": " cat\u2028"}]
    jsonl, out = tmp_path / "gate.jsonl", tmp_path / "drawn"
    jsonl.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in told), encoding="utf-8")
    assert main(["--decided", str(jsonl), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "gate.png") and (out / "gate.png").stat().st_size > 5000
    for text, why in (
        ("", "nothing was decided"),
        ("[1]", "cannot read"),
        (json.dumps(told[0]), "nothing was decided"),
    ):
        jsonl.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=why):
            main(["--decided", str(jsonl)])


def test_a_full_disk_is_told_with_its_folder_and_nothing_half_drawn_is_left(small_disk, capsys):
    folder = small_disk(8192)
    assert run(main, ["--variant", "group", "--out", str(folder)]) == 2
    assert f"cannot write to {folder}: the disk is full" in capsys.readouterr().err and not list(folder.iterdir())
