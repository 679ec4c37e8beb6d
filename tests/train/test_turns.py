"""`swwatch train` on toy commentaries, as StreamingVLM and as LiveCC: it learns, continues, and says what is wrong."""

import json

import pytest
from safetensors.torch import load_file

from swwatch.config import load_settings
from swwatch.data.turns import conversation
from swwatch.data.turns.chunker import main as chunk
from swwatch.errors import UserError
from swwatch.model.loading import load
from swwatch.paths import ROOT
from swwatch.rules.spans import Part
from swwatch.rules.systems import SYSTEMS
from swwatch.toy.clips import Recipe, write_dataset
from swwatch.toy.command import main as toy
from swwatch.toy.commentary import transcript
from swwatch.toy.world import make_scene
from swwatch.train.checkpoints import COMPLETE
from swwatch.train.command import main, read
from swwatch.train.machine import settle
from swwatch.train.parallelism import Parallelism
from swwatch.train.settings import TrainSettings
from swwatch.train.setup import clips_of, load_model, records_of
from tests.helpers.conversations import chat, write

PACKED = {"pack_tokens": 400, "max_length": 400, "batch_size": 1}
PAPERS = ("streamingvlm_stage1", "streamingvlm_stage2", "livecc_pretrain", "livecc_sft")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Toy clips, their commentary in chunks with offsets beside it, and chat about a clip."""
    root = tmp_path_factory.mktemp("world") / "toy"
    write_dataset(root, Recipe(8, 2))
    assert toy(["transcripts", str(root)]) == 0
    how = ["--window", "4", "--overlap", "2", "--min-words", "4"]
    assert chunk([str(root / "transcripts_train.jsonl"), str(root / "commentary.jsonl"), *how]) == 0
    held_out = ["--window", "4", "--overlap", "0", "--min-words", "1", "--seeks", "last-line"]
    assert chunk([str(root / "transcripts_test.jsonl"), str(root / "held_out.jsonl"), *held_out]) == 0
    write(root / "chat.jsonl", [chat("PE-Video/videos/train/train_000001.mp4", "What moves?", "a shape")])
    return root


@pytest.fixture
def turns(flags, world):
    """turns(variant, key=value, ...) -> arguments of `swwatch train` on the toy commentary."""

    def build(variant: str, **changes) -> list[str]:
        values = {"variant": variant, "train_data": world / "commentary.jsonl", "pixel_budget": "declared"}
        return flags(**values | changes)

    return build


def log_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("system", SYSTEMS)
def test_commentary_mixed_with_chat_is_learned_and_the_model_knows_what_it_is(turns, world, tmp_path, system, capsys):
    more = f"{world / 'chat.jsonl'},{world / 'commentary.jsonl'}"
    held_out = f"{world / 'held_out.jsonl'},{world / 'chat.jsonl'}"
    changes = {"more_data": more, "max_steps": 12, "eval_data": held_out, "eval_steps": 12}
    own = {"livecc": {"context": "previous_or_title"}, "streamingvlm": {"text_sink": 2, "text_window": 3}}
    changes |= own.get(system, {"thought_weight": 0.5, "seconds_per_turn": 2})
    assert main(turns(system, **changes)) == 0
    losses = [line["loss"] for line in log_of(tmp_path / "out")]
    told, held_out = log_of(tmp_path / "out")[-1], (world / "held_out.jsonl").read_bytes().splitlines()[:-1]
    assert losses[-1] < 0.7 * losses[0] and told["eval_samples"] == len(held_out) + 1, "both files"
    shown = capsys.readouterr().out
    assert (
        f"{system}, positions {'group' if system == 'tww' else 'mrope_full'}" in shown
        and "commentary.jsonl, " in shown
        and "chat.jsonl" in shown
    )
    settings = load(tmp_path / "out", device="cpu").settings
    sizes = tuple(getattr(settings.own_keep, name, None) for name in ("text_sink", "text_window"))
    assert settings.variant == system and (sizes == (2, 3)) == (system == "streamingvlm")


@pytest.mark.parametrize(
    "changes", [{}, {"pack_tokens": 800, "max_length": 800, "batch_size": 1}], ids=["rows", "packs"]
)
@pytest.mark.parametrize("system", [name for name in SYSTEMS if name != "tww"])  # whose samples are as livecc's
def test_a_run_broken_off_ends_as_if_it_had_not_been(turns, tmp_path, system, changes):
    out, whole = tmp_path / "out", tmp_path / "whole"
    changes = changes | {"max_steps": 4, "save_steps": 2, "save_total_limit": 3}
    assert main(turns(system, **changes, output_dir=whole)) == 0
    assert main(turns(system, **changes)) == 0
    (out / "finished.json").unlink()
    (out / "checkpoint-4" / COMPLETE).unlink()
    assert main(turns(system, **changes, num_workers=1)) == 0
    assert log_of(out) == log_of(whole)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, whole))
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)


def test_text_sink_and_window_say_what_samples_keep_of_previous_text(turns, world):
    kept = {}
    for sizes in ({}, {"text_sink": 2, "text_window": 3}, {"text_sink": 2}):
        settings = settle(read(turns("streamingvlm", **sizes)))
        records = records_of(settings, settings.annotations)
        loaded = load_model(settings, None, Parallelism.of("ddp"))
        clips = clips_of(settings, records, settings.train_data, loaded, 0.0)
        told = [conversation.read(record) for record in records]
        begins = [clips.form.spans(one, (4, 1, 1))[0] for one in told]
        kept[len(sizes)] = [sum(len(s) for s in spans if s.part is Part.PREVIOUS) for spans in begins]
    whole, both, sink = kept[0], kept[2], kept[1]
    assert max(whole) > 5 and both == [min(length, 5) for length in whole] and sink == whole


def test_packed_and_one_by_one_are_one_trajectory(turns, world, tmp_path):
    """A step sees the whole file each time, so the mean over its answer tokens makes them the same run."""
    data = world / "held_out.jsonl"
    count = len(data.read_bytes().splitlines()) - 1  # the last line holds the offsets
    ways = {"alone": {"accumulation": count}, "packed": {"accumulation": 1, "pack_tokens": 30_000, "max_length": 2000}}
    losses = {}
    for way, changes in ways.items():
        assert main(turns("livecc", train_data=data, output_dir=tmp_path / way, batch_size=1, **changes)) == 0
        log = log_of(tmp_path / way)
        assert {line["samples"] for line in log} == {count}
        losses[way] = [line["loss"] for line in log]
    assert losses["packed"] == pytest.approx(losses["alone"], abs=2e-4) and losses["alone"][2] < losses["alone"][0]


def test_adapters_learn_turns_and_leave_the_base_alone(turns, tmp_path):
    changes = {"adapter": "lora", "train_vision": False, "train_merger": False, "max_steps": 6}
    assert main(turns("streamingvlm", **changes)) == 0
    losses = [line["loss"] for line in log_of(tmp_path / "out")]
    assert losses[-1] < losses[0] and (tmp_path / "out" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_dry_run_draws_a_sample_and_trains_nothing(turns, tmp_path, system, capsys):
    assert main([*turns(system), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    ends = {"vst": "<|im_end|>", "tww": "<EOT>"}
    assert "said in step 1" in shown and ends.get(system, " ...<|im_end|>") in shown
    assert (tmp_path / "out" / "dry_run.png").exists() and not (tmp_path / "out" / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("variant", "changes", "words"),
    [
        ("group", {"positions": "flat_1d"}, "positions is for streamingvlm, livecc, vst, tww; group has no use"),
        ("group", {"more_data": "chat"}, "more_data is for streamingvlm, livecc"),
        ("livecc", {"schedule": "wait-k:3"}, "schedule is for origin, .*, gap; livecc has no use"),
        ("livecc", {"text_sink": 4}, "of previous text, and livecc keeps none"),
        ("group", {"text_window": 4}, "text_window is for streamingvlm, livecc"),
        ("group", {"eval_data": "clips,clips"}, "eval_data: several files are for streamingvlm, livecc"),
        ("streamingvlm", {"context": "both"}, "previous text in a turn of its own"),
        ("livecc", {"more_data": "none.jsonl"}, "no annotation file .*none.jsonl.*swwatch chunk"),
        ("livecc", {"train_data": "clips"}, r"a JSON list of messages is wanted.*[\s\S]*`swwatch chunk`"),
        ("group", {}, r"a JSON object is wanted"),
    ],
)
def test_mistakes_are_told(turns, world, clips, variant, changes, words):
    paths = {"chat": world / "chat.jsonl", "clips": clips}
    with pytest.raises(UserError, match=words):
        several = {
            key: ",".join(str(paths.get(part, part)) for part in str(value).split(","))
            for key, value in changes.items()
        }
        main(turns(variant, **several))


def test_another_file_or_context_is_another_run(turns, world, capsys):
    assert main(turns("livecc", max_steps=1)) == 0
    with pytest.raises(UserError, match="context"):
        main(turns("livecc", max_steps=1, context="title"))
    with pytest.raises(UserError, match="more_data"):
        main(turns("livecc", max_steps=1, more_data=world / "chat.jsonl"))


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_recipes_freeze_the_tower_and_take_512_samples_a_step(name):
    settings = load_settings(TrainSettings, yaml_path=ROOT / f"configs/train/{name}.yaml")
    assert not settings.train_vision and not settings.train_merger and settings.train_llm
    assert (settings.batch_size * settings.accumulation, settings.epochs, settings.warmup) == (512, 1, 0.03)
    assert settings.learning_rate == (2e-5 if name == "livecc_pretrain" else 1e-5)
    assert settings.max_frames == SYSTEMS[settings.variant].max_frames and settings.lr_schedule == "cosine"


def test_toy_words_are_said_within_their_events_in_order():
    scene = make_scene(0, 1, level="pair")
    rows = transcript(scene.events)
    assert [row[2] for row in rows] == [word for event in scene.events for word in event.words().split()]
    assert all(start < end for start, end, _ in rows) and rows[-1][1] <= scene.duration_s - 0.5
    assert all(before[1] <= after[0] for before, after in zip(rows, rows[1:], strict=False))
