"""Training with thoughts: what a sample holds, what it weighs, how it does without, and a run to words."""

import json

import pytest
import torch

from swwatch import cli
from swwatch.data.annotations import read_jsonl
from swwatch.data.collator import Collator
from swwatch.data.prompt import IGNORED, load_prompts
from swwatch.data.samples import Skip
from swwatch.policies.speak import WaitK
from swwatch.policies.think import Notes
from swwatch.rules.layout import Kind
from swwatch.rules.schedule import Planned
from swwatch.toy.world import make_scene
from tests.helpers.small_clips import clip_dataset, make_clips

PROMPTS = load_prompts()
THOUGHTS = [{"at_s": 0.4, "text": "a cat"}, {"at_s": 0.5, "text": " it sits"}]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = make_clips(tmp_path_factory.mktemp("thoughts"), 2)
    records = [json.loads(line) | {"thoughts": THOUGHTS} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_notes_tell_what_came_up_since_the_one_before():
    def encode(text):
        return [*map(int, text.replace(";", "").split()), end]

    found, end = [(0.4, "1 2 3"), (1.5, "4")], 9
    told = [1, 2, 3, end, 4, end, end, end]
    assert Notes(2).write(found, encode, 6, 1.0) == (Planned((2, 2, 2, 1, 1, 0), (0, 4, 6, 7)), told)
    plan, told = Notes(2, 2.0, 3).write(found, encode, 6, 1.0)
    assert (plan.at, plan.starts, told) == ((0, 2, 1, 1, 0, 0), (0, 3), [1, 2, 3, end]), "cut, and nothing more"
    assert Notes(2).most(6, 1.0) == (5, 10) and Notes(2, 2.0, 3).most(6, 1.0) == (2, 6)
    assert Notes(2).write(found, encode, 1, 1.0) == (Planned((0,), ()), [])


def test_a_sample_thinks_what_its_record_says_and_sometimes_nothing(load_tiny, data):
    loaded, markup = load_tiny("group"), load_tiny("group").markup
    clips = clip_dataset(loaded, data, "group", WaitK(3), prompts=PROMPTS, think=Notes(30))
    sample = clips[0, 0].sample
    thought = sample.tokens.where(Kind.THOUGHT)
    told = loaded.tokenizer.decode(sample.input_ids[thought]).split("<|im_end|>")
    assert told[0] == "a cat; it sits" and len(told) > 1 and not any(told[1:])
    assert torch.equal(sample.labels != IGNORED, thought | sample.tokens.where(Kind.ANSWER))
    notes = int(sample.tokens.where(Kind.NOTE).sum())
    assert notes == len(markup.note) * int((sample.input_ids[thought] == markup.im_end).sum())
    (counted,) = clips.counter()([clips.records[0]], [clips.measure(clips.records[0])])
    assert counted[0] >= len(sample.tokens) - 30, "an upper bound, but for the question that is drawn"
    plain = clip_dataset(loaded, data, "group", WaitK(3), prompts=PROMPTS)
    some = clip_dataset(loaded, data, "group", WaitK(3), prompts=PROMPTS, think=Notes(30), thought_dropout=0.5)
    without = [len(some[epoch, 0].sample.tokens) == len(plain[epoch, 0].sample.tokens) for epoch in range(12)]
    assert 2 <= sum(without) <= 10 and without == [
        len(some[epoch, 0].sample.tokens) == len(plain[epoch, 0].sample.tokens) for epoch in range(12)
    ]
    record = {name: value for name, value in read_jsonl(data)[0].items() if name != "thoughts"}
    missing = clip_dataset(loaded, data, "group", WaitK(3), prompts=PROMPTS, think=Notes(30))
    missing.records = [record]
    assert isinstance(missing.sample(0, 0), Skip) and "has no thoughts" in missing.sample(0, 0).reason


@pytest.mark.parametrize("way", ["whole", "chunked"])
def test_words_and_thoughts_have_weights_of_their_own(load_tiny, data, monkeypatch, way):
    loaded = load_tiny("group")
    model = loaded.model
    monkeypatch.setattr(model, "loss_way", way)
    samples = [
        clip_dataset(loaded, data, "group", WaitK(3), prompts=PROMPTS, think=Notes(30))[0, i].sample for i in (0, 1)
    ]
    batch = Collator(loaded.tokenizer.pad_token_id).batch(samples)
    thought = torch.stack([row == 2 for row in batch["columns"][:, 1]]) & (batch["labels"] != IGNORED)

    def loss(weight, labels=batch["labels"]):
        monkeypatch.setattr(model, "thought_weight", weight)
        with torch.no_grad():
            return float(model(**batch | {"labels": labels}, num_items_in_batch=10).loss)

    words, thoughts = (batch["labels"].masked_fill(mask, IGNORED) for mask in (thought, ~thought))
    alone = loss(1.0, words), loss(1.0, thoughts)
    assert min(alone) > 0.1
    for weight in (0.0, 0.3, 1.0, 2.0):
        assert loss(weight) == pytest.approx(alone[0] + weight * alone[1], rel=1e-5)


def test_the_toy_world_notes_what_happened():
    scene = make_scene(0, 3, level="single")
    notes = scene.notes()
    assert [note["at_s"] for note in notes] == sorted(event.end_s for event in scene.events)
    assert {note["text"] for note in notes} == {event.words() for event in scene.events}


def test_a_model_is_trained_to_think_knows_it_and_does_so(tiny_checkpoint, data, tmp_path, capsys):
    flags = f"train --variant group --think notes:4 --thought-weight 0.5 --model-path {tiny_checkpoint}"
    flags += f" --train-data {data} --output-dir {tmp_path / 'run'} --batch-size 2 --accumulation 1 --max-steps 2"
    flags += " --warmup 0 --precision float32 --num-workers 0"
    assert cli.main(flags.split()) == 0
    assert "think notes:4" in "".join(capsys.readouterr())
    assert json.loads((tmp_path / "run/config.json").read_text())["swwatch"]["think"].startswith("notes:4")
    clip = next(data.parent.rglob("*.mp4"))
    for flag, thinks in (((), True), (("--think", "off"), False)):
        out = tmp_path / "out.jsonl"
        argv = ["stream", "--model", str(tmp_path / "run"), "--video", str(clip), "--jsonl", str(out), *flag]
        assert cli.main([*argv, "--max-new-tokens", "8"]) == 0
        assert ('"event": "thought"' in out.read_text()) == thinks
    for wrong, advice in (
        ("--think notes:4 --thought-dropout 1", "below 1"),
        ("--thought-weight 2", "set think"),
    ):
        argv = flags.replace("--think notes:4 --thought-weight 0.5", wrong).split()
        assert cli.run(cli.main, argv) == 2
        assert advice in capsys.readouterr().err
