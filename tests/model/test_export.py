"""`swwatch export`: a folder of ours with the files of transformers 4.50, and the same model."""

import json
import re

import pytest
import torch

from swwatch.cli import main
from swwatch.model.export import LATER
from swwatch.model.loading import load
from swwatch.rules.families import FAMILIES
from swwatch.toy.checkpoint import make_checkpoint

SIZES = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "vision_depth": 1, "vision_hidden": 32}


def read(folder, name: str) -> dict:
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(LATER)))
def test_a_checkpoint_is_exported_with_the_keys_of_that_time_and_stays_the_same_model(tmp_path, family):
    ours = load(make_checkpoint(tmp_path / "toy", family=family, **SIZES), variant="livecc", device="cpu")
    trained, out = tmp_path / "trained", tmp_path / "out"
    ours.model.config.swwatch = ours.settings.as_dict()
    ours.model.save_pretrained(trained)  # as the trainer writes it
    ours.processor.save_pretrained(trained)
    assert main(["export", "--for", "transformers-4.5x", str(trained), str(out)]) == 0

    config = read(out, "config.json")
    text = ours.model.config.text_config
    assert "text_config" not in config and "rope_parameters" not in config and "dtype" not in config
    assert config["hidden_size"] == text.hidden_size and config["vocab_size"] == text.vocab_size
    section = list(text.rope_parameters["mrope_section"])
    assert config["rope_scaling"] == {"type": "mrope", "mrope_section": section} and config["rope_theta"] == 1e4
    assert (
        config["torch_dtype"] == "float32" and config["model_type"] == config["vision_config"]["model_type"] == family
    )
    assert config["swwatch"] == ours.settings.as_dict()
    images = read(out, "preprocessor_config.json")
    assert images["image_processor_type"] == "Qwen2VLImageProcessor" and images["min_pixels"] < images["max_pixels"]
    assert images["size"] == {"shortest_edge": images["min_pixels"], "longest_edge": images["max_pixels"]}
    assert images["processor_class"] == FAMILIES[family].processor
    tokens = read(out, "tokenizer_config.json")
    assert tokens["chat_template"] == ours.processor.chat_template == read(out, "chat_template.json")["chat_template"]
    assert {row["content"] for row in tokens["added_tokens_decoder"].values()} >= {"<|im_end|>", "<|video_pad|>"}
    assert read(out, "vocab.json").keys().isdisjoint(read(out, "added_tokens.json"))
    assert (out / "merges.txt").read_text().startswith("#version: 0.2\n")
    assert not (out / "processor_config.json").exists() and not (out / "chat_template.jinja").exists()

    again = load(out, device="cpu")
    weights = again.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in ours.model.state_dict().items())
    assert again.settings == ours.settings and again.tokenizer.encode("a b ...<|im_end|>") == ours.tokenizer.encode(
        "a b ...<|im_end|>"
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "swwatch merge"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no [*].safetensors"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "chat template"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "other"}'), "known are qwen2_5_vl"),
    ],
)
def test_what_cannot_be_exported_is_told_and_nothing_is_left(tmp_path, capsys, spoil, message):
    folder = make_checkpoint(tmp_path / "toy", **SIZES)
    spoil(folder)
    assert main(["export", str(folder), str(tmp_path / "out")]) != 0
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("family", LATER)
def test_a_family_that_came_later_is_refused(tmp_path, family, capsys):
    make_checkpoint(tmp_path / "toy", family=family, **SIZES)
    assert main(["export", str(tmp_path / "toy"), str(tmp_path / "out")]) == 2
    assert "came with transformers 4.57" in capsys.readouterr().err
