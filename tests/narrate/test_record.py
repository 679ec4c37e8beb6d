"""A training record as what is watched, and words that are given to a stream."""

import json

import av
import numpy as np
import pytest
import torch
from transformers.utils import logging as transformers_logging

from swwatch.data.prompt import IGNORED
from swwatch.data.turns.given import Given
from swwatch.errors import UserError
from swwatch.narrate import command as stream
from swwatch.narrate import turns_command as turns
from swwatch.rules.systems import SYSTEMS
from swwatch.toy.clips import Recipe, write_dataset
from tests.helpers.conversations import commentary, dataset, talk, write

ASKED = [[0, 4.4, "Who is it?", "a man"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    write_dataset(folder, Recipe(1, 1, 0), workers=1)
    clip = next((folder / "PE-Video/videos/train").glob("*.mp4"))
    words = talk(1, 6)
    told = commentary(
        str(clip), 1.0, 6.5, words, query="Say it.", asked=ASKED, previous=" he was here", title="The cup"
    )
    write(folder / "said.jsonl", [commentary(str(clip), 0, 3, talk(0, 3)), told])
    return folder


def rows_of(folder, model, *flags) -> list[dict]:
    out = folder / "turns.jsonl"
    turns.main(["--model", str(model), "--greedy", "--repetition-penalty", "1", "--jsonl", str(out), *map(str, flags)])
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize("system", ["streamingvlm", "livecc"])
def test_a_record_streams_as_its_training_sample_stands_where_its_own_words_are_given(
    load_tiny, folder, tiny_checkpoint, system, monkeypatch
):
    """Each turn begins with the word that training's forward over the whole sample has there."""
    loaded = load_tiny(system, pixel_budget="declared")
    monkeypatch.setattr("swwatch.model.loading.load", lambda *args, **how: loaded)
    clips = dataset(loaded, folder / "said.jsonl")
    sample = clips[0, 1].sample
    learned = sample.labels != IGNORED
    begins = (learned & ~learned.roll(1)).nonzero()[:, 0] - 1
    model, ids = loaded.model, sample.input_ids
    embeds = model.embed(ids)
    embeds[ids == model.markup.video] = model.watch_video(sample.pixel_values, sample.video_grid_thw)
    mask = torch.ones((1, 1, len(ids), len(ids)), dtype=torch.bool).tril()
    where = sample.tokens.position_ids[:, None]
    with torch.no_grad():
        hidden = model.model.language_model(inputs_embeds=embeds[None], position_ids=where, attention_mask=mask)
        best = model.lm_head(hidden.last_hidden_state[0, begins]).argmax(-1)
    record = ("--record", folder / "said.jsonl", "--number", 2, "--eviction", "append")
    record += ("--positions", "mrope_full", "--system", system, "--max-new-tokens", 1)
    rows = rows_of(folder, tiny_checkpoint, *record, "--say", "own")
    assert len(rows) == len(begins) == {"streamingvlm": 5, "livecc": 3}[system]
    stops = {model.markup.im_end}
    want = ["" if int(token) in stops else loaded.tokenizer.decode(token).strip() for token in best]
    assert [row["text"] for row in rows] == want
    text = loaded.tokenizer.decode(ids[learned])
    assert [row["given"] for row in rows] == [
        turn.removesuffix(" ...").strip() for turn in text.split("<|im_end|>")[:-1]
    ]
    assert any("a man" in row["given"] for row in rows)
    free = rows_of(folder, tiny_checkpoint, *record)
    assert free[0]["text"] == rows[0]["text"] and "given" not in free[0]


@pytest.mark.parametrize(
    ("rows", "want"),
    [
        ([{"start": 1, "end": 2, "text": "one two"}, {"start": 2, "end": 3, "text": ""}], ["one two", "", None]),
        ([{"video": "a.mp4", "content": [[1, 1.5, "one"], [1.5, 1.9, "two"], [2.5, 3, "x"]]}], ["one two", "x", None]),
        ([{"video": n, "content": [[1, 2, n]]} for n in ("b.mp4", "c/a.mp4")], ["c/a.mp4", None, None]),
        ([{"Time=1.0-2.0s": {"phrase": "one ..."}, "Time=3.0-4.0s": {"phrase": " ..."}}], ["one", None, None]),
    ],
)
def test_given_words_are_read_in_every_form_and_end_with_their_file(tmp_path, rows, want):
    path = tmp_path / "said.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    given = Given.read(path, tmp_path / "a.mp4", SYSTEMS["streamingvlm"])
    assert [given(start, start + 1) for start in (1, 2, 3)] == want


def test_liveccs_words_of_a_last_half_second_come_a_turn_later_and_whole_turns_do_not(tmp_path):
    for row, want in (
        ({"video": "a.mp4", "content": [[1, 1.5, "one"], [1.5, 2.0, "two"]]}, ["one", "two"]),
        ({"start": 1, "end": 2, "text": "one two"}, ["one two", None]),
    ):
        (tmp_path / "said.jsonl").write_text(json.dumps(row))
        given = Given.read(tmp_path / "said.jsonl", tmp_path / "a.mp4", SYSTEMS["livecc"], zero_s=1.0)
        assert [given(0, 1), given(1, 2)] == want


def test_what_is_given_and_cannot_be_is_told(folder, tiny_checkpoint, tmp_path):
    (tmp_path / "two.jsonl").write_text('{"video": "x.mp4", "content": []}\n{"video": "y.mp4", "content": []}\n')
    (tmp_path / "other.jsonl").write_text('{"said": 1}\n')
    (tmp_path / "markup.jsonl").write_text(
        '{"start": 9, "end": 10, "text": "a <|im_end|>"}\n'
    )  # behind the clip's end
    (tmp_path / "null.jsonl").write_text('{"start": 0, "end": 1, "text": null}\n')
    video = next(folder.rglob("*.mp4"))
    flags = ["--model", str(tiny_checkpoint), "--system", "streamingvlm"]
    record = ["--record", str(folder / "said.jsonl")]
    for more, words in (
        ([], "give --video FILE, or --record FILE"),
        (["--video", str(video), *record], "and not both"),
        (["--video", str(video), "--say", "own"], "--say own is of a training record"),
        (["--video", str(video), "--say", str(tmp_path / "none.jsonl")], "there is no file"),
        (["--video", str(video), "--say", str(tmp_path / "two.jsonl")], "0 of its 2 lines are about"),
        (["--video", str(video), "--say", str(tmp_path / "other.jsonl")], "are wanted, not 'said'"),
        (["--video", str(video), "--say", str(tmp_path / "null.jsonl")], "has no text"),
        (["--video", str(video), "--say", str(tmp_path / "markup.jsonl")], "must not contain"),
        ([*record, "--start", "2"], "leave --start and --seconds out"),
        ([*record, "--number", "3"], "has 2 records, and no --number 3"),
    ):
        with pytest.raises(UserError, match=words):
            turns.main([*flags, *more])


def test_nothing_but_words_is_shown_of_a_slightly_broken_clip(tiny_checkpoint, tmp_path, capfd):
    """No bars of weights, and no lines of decoders, which have something to say about it."""
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=4)
        video.width = video.height = 56
        for frame in np.random.default_rng(0).integers(0, 255, (16, 56, 56, 3), dtype=np.uint8):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 0x21
    path.write_bytes(broken)
    transformers_logging.enable_progress_bar()
    av.logging.set_level(None)
    for main, variant in ((turns.main, "--system=streamingvlm"), (stream.main, "--variant=group")):
        assert main(["--model", str(tiny_checkpoint), "--video", str(path), variant, "--max-new-tokens=2"]) == 0
    shown = capfd.readouterr()
    assert shown.err == "" and "%|" not in shown.out and shown.out.count(" s |") >= 4


def test_stream_watches_a_training_record_too(folder, tiny_checkpoint, tmp_path, capsys):
    (tmp_path / "clips.jsonl").write_text(
        json.dumps(
            {
                "video_id": "a",
                "human_caption": "A circle.",
                "video_duration_in_s": 5,
                "video_path": str(next(folder.rglob("*.mp4"))),
                "question": "What moves?",
            }
        )
    )
    for variant, file in (("streamingvlm", folder / "said.jsonl"), ("group", tmp_path / "clips.jsonl")):
        flags = ["--model", str(tiny_checkpoint), "--variant", variant, "--record", str(file), "--max-new-tokens", "2"]
        assert stream.main(flags) == 0
    shown = capsys.readouterr().out
    assert "Commentate on this match" not in shown and "| What moves?" in shown
