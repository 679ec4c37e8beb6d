"""A fourth family comes in by what CONTRIBUTING lists: a row, and a file under the contract. No other file knows it.

Its model is Qwen2-VL's under another name: what is tried is the way in, which a name in a list elsewhere would block.
"""

import json
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from swwatch.model.families.qwen2_vl import TextAttention, VisionAttention
from swwatch.model.loading import load
from swwatch.model.modeling import Watching
from swwatch.model.upstream import keep_names_of_weights
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import WaitK
from swwatch.rules.families import FAMILIES
from swwatch.toy import checkpoint
from swwatch.toy.command import main as toy
from tests.helpers.streams import Told, full_forward, play, random_stream

NAME = "fourth_vl"


class FourthVLConfig(Qwen2VLConfig):
    model_type = NAME


class FourthVLForConditionalGeneration(Qwen2VLForConditionalGeneration):
    config_class = FourthVLConfig


class FourthVLProcessor(Qwen2VLProcessor):
    pass


@pytest.fixture
def fourth(monkeypatch):
    """As transformers would know it, its row, and its file."""
    row = replace(FAMILIES["qwen2_vl"], name=NAME, prefix="FourthVL")
    monkeypatch.setitem(FAMILIES, NAME, row)
    monkeypatch.setattr(checkpoint.transformers, row.upstream, FourthVLForConditionalGeneration, raising=False)
    AutoConfig.register(NAME, FourthVLConfig, exist_ok=True)
    AutoProcessor.register(FourthVLConfig, FourthVLProcessor, exist_ok=True)
    renaming = get_checkpoint_conversion_mapping(Qwen2VLForConditionalGeneration.__name__)
    register_checkpoint_conversion_mapping(row.upstream, renaming, overwrite=True)

    class WatchingFourthVL(Watching, FourthVLForConditionalGeneration):
        family = row
        text_attention, vision_attention = TextAttention, VisionAttention

    keep_names_of_weights(WatchingFourthVL)
    file = ModuleType(f"swwatch.model.families.{NAME}")
    file.MODEL = WatchingFourthVL
    monkeypatch.setitem(sys.modules, file.__name__, file)
    return WatchingFourthVL


@pytest.mark.parametrize("variant", ["interleave", "group"])
def test_a_toy_checkpoint_of_it_is_made_loaded_and_streams_as_it_trains(fourth, tmp_path, variant):
    assert toy(["model", str(tmp_path / "model"), "--family", NAME]) == 0
    loaded = load(tmp_path / "model", variant=variant, device="cpu")
    assert type(loaded.model) is fourth

    stream = random_stream(loaded, [(2, 3), (1, 2), (3, 3)], seed=0)
    whole, _ = full_forward(loaded, stream, WaitK(3))
    session = Told(loaded.model, stream.prompt, schedule=WaitK(3), choose=Greedy(max_new_tokens=20))
    play(session.tell(stream.answer), stream)
    torch.testing.assert_close(torch.stack(session.seen_logits), whole, atol=1e-4, rtol=0)

    loaded.model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/config.json").read_text())["model_type"] == NAME
