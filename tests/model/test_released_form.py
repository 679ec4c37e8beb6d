"""Folders in the very form of the released checkpoints load as they are: files, keys and names of transformers 4.50.

mit-han-lab/StreamingVLM is a Qwen2.5-VL, chenjoya/LiveCC-7B-Instruct a Qwen2-VL. Both were written by a trainer of
early 2025: the text model's keys stand in config.json itself, weights are called `model.layers...` and `visual...` and
lie in several files, and the chat template is a file of its own.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from swwatch.cli import run
from swwatch.engine.door import open_stream
from swwatch.model.loading import load
from swwatch.narrate.command import main as stream
from swwatch.policies.think import OFF
from swwatch.rules.families import FAMILIES
from swwatch.toy.checkpoint import CHAT_TEMPLATE, SPECIAL_TOKENS, make_checkpoint
from tests.helpers.turn_streams import begin, play, random_steps

SYSTEM = {"qwen2_5_vl": "streamingvlm", "qwen2_vl": "livecc"}
SIZES = {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "vision_depth": 2, "vision_hidden": 32}


def old_names(name: str) -> str:
    """model.language_model.layers.0... -> model.layers.0..., model.visual... -> visual..."""
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def old_config(config, family: str, rope_scaling: dict) -> dict:
    """config.json as transformers 4.50 wrote it, the text model's keys beside the whole's."""
    text, vision = config.text_config, config.vision_config
    own = ("hidden_act", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
    own += ("num_key_value_heads", "rms_norm_eps", "vocab_size", "initializer_range", "attention_dropout")
    sizes = {"depth": vision.depth, "hidden_act": vision.hidden_act, "hidden_size": vision.hidden_size}
    sizes |= {"in_chans": 3, "in_channels": 3, "initializer_range": 0.02, "num_heads": vision.num_heads}
    sizes |= {"patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14, "temporal_patch_size": 2}
    sizes |= {"model_type": family, "torch_dtype": "bfloat16"}
    if family == "qwen2_vl":
        sizes |= {"embed_dim": vision.embed_dim, "mlp_ratio": vision.mlp_ratio, "hidden_act": "quick_gelu"}
    else:
        sizes |= {"intermediate_size": vision.intermediate_size, "out_hidden_size": vision.out_hidden_size}
        sizes |= {"window_size": vision.window_size, "tokens_per_second": 2}
        sizes |= {"fullatt_block_indexes": vision.fullatt_block_indexes}
    return {key: getattr(text, key) for key in own} | {
        "_name_or_path": "checkpoints/stage_1",
        "architectures": [FAMILIES[family].upstream],
        "bos_token_id": text.bos_token_id,
        "eos_token_id": text.eos_token_id,
        "image_token_id": config.image_token_id,
        "max_position_embeddings": 32768,
        "max_window_layers": text.num_hidden_layers,
        "model_type": family,
        "rope_scaling": rope_scaling,
        "rope_theta": text.rope_parameters["rope_theta"],
        "sliding_window": 32768,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.50.0",
        "use_cache": False,  # a trainer with gradient checkpointing leaves it so
        "use_sliding_window": False,
        "video_token_id": config.video_token_id,
        "vision_config": sizes,
        "vision_end_token_id": config.vision_end_token_id,
        "vision_start_token_id": config.vision_start_token_id,
        "vision_token_id": config.vision_start_token_id + 2,
    }


def write_tokenizer(folder: Path, tokenizer, family: str) -> None:
    """vocab.json, merges.txt and the rest, as Qwen2's tokenizer was saved."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    write = {"vocab.json": {token: i for token, i in model["vocab"].items() if token not in ids}}
    write["added_tokens.json"] = ids
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    write["tokenizer_config.json"] = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): {"content": token} | flags for token, i in ids.items()},
        "additional_special_tokens": [token for token in SPECIAL_TOKENS if token != "<|endoftext|>"],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "extra_special_tokens": {},
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "padding_side": "right",
        "processor_class": FAMILIES[family].processor,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    named = {name: {"content": token} | flags for name, token in (("eos_token", "<|im_end|>"),)}
    write["special_tokens_map.json"] = named | {
        "additional_special_tokens": write["tokenizer_config.json"]["additional_special_tokens"]
    }
    write["chat_template.json"] = {"chat_template": CHAT_TEMPLATE}
    for name, value in write.items():
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=2))
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))


def write_released(folder: Path, ours, family: str, rope_scaling: dict) -> Path:
    """The folder of a loaded model, as its release would have been."""
    folder.mkdir()
    model = ours.model
    (folder / "config.json").write_text(json.dumps(old_config(model.config, family, rope_scaling), indent=2))
    weights = {old_names(name): tensor.clone() for name, tensor in model.state_dict().items()}
    assert "lm_head.weight" in weights and "model.layers.0.self_attn.q_proj.bias" in weights
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    where = {name: files[i % 2] for i, name in enumerate(sorted(weights))}
    for file in files:
        part = {name: tensor for name, tensor in weights.items() if where[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    size = {"total_size": sum(tensor.nbytes for tensor in weights.values())}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": size, "weight_map": where}))
    write_tokenizer(folder, ours.tokenizer, family)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "do_convert_rgb": True,
                "do_normalize": True,
                "do_rescale": True,
                "do_resize": True,
                "image_mean": [0.48145466, 0.4578275, 0.40821073],
                "image_processor_type": "Qwen2VLImageProcessor",
                "image_std": [0.26862954, 0.26130258, 0.27577711],
                "max_pixels": 12845056,
                "merge_size": 2,
                "min_pixels": 3136,
                "patch_size": 14,
                "processor_class": FAMILIES[family].processor,
                "resample": 3,
                "rescale_factor": 0.00392156862745098,
                "size": {"longest_edge": 12845056, "shortest_edge": 3136},
                "temporal_patch_size": 2,
            }
        )
    )
    ends = [model.config.text_config.eos_token_id, model.config.text_config.bos_token_id]
    chosen = {"bos_token_id": ends[1], "pad_token_id": ends[1], "do_sample": True, "eos_token_id": ends}
    chosen |= {"repetition_penalty": 1.05, "temperature": 1e-6, "transformers_version": "4.50.0"}
    (folder / "generation_config.json").write_text(json.dumps(chosen))
    (folder / "trainer_state.json").write_text("{}")  # left behind by the trainer
    return folder


@pytest.mark.parametrize("saved_as", ["mrope", "default"])
@pytest.mark.parametrize("family", SYSTEM)
def test_a_released_folder_has_the_same_weights_and_says_the_same(tmp_path, family, saved_as):
    """Rope scaling has the type "mrope" in Qwen's own folders, "default" in those that a trainer saved again."""
    system = SYSTEM[family]
    ours = load(make_checkpoint(tmp_path / "toy", family=family, **SIZES), variant=system, device="cpu")
    section = list(ours.model.config.text_config.rope_parameters["mrope_section"])
    rope = {"mrope_section": section, "type": saved_as}
    rope |= {"rope_type": "default"} if saved_as == "default" else {}
    theirs = load(write_released(tmp_path / "released", ours, family, rope), variant=system, device="cpu")

    assert type(theirs.model) is type(ours.model)
    weights, expected = theirs.model.state_dict(), ours.model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    read = theirs.model.config.text_config.rope_parameters
    assert read["rope_theta"] == 1e4 and list(read["mrope_section"]) == section
    assert theirs.settings == ours.settings and theirs.markup == ours.markup
    assert theirs.model.t_per_step == ours.model.t_per_step == (2 if family == "qwen2_5_vl" else 1)
    text = "<|im_start|>user\nTime=10.0-11.0s<|vision_start|><|video_pad|><|vision_end|>a red circle ...<|im_end|>\n"
    assert theirs.tokenizer.encode(text) == ours.tokenizer.encode(text)
    assert theirs.processor.chat_template == CHAT_TEMPLATE
    said = [[turn.ids for turn in play(begin(loaded), random_steps(loaded, 5))] for loaded in (ours, theirs)]
    assert said[0] == said[1] and len(said[0]) == (5 if system == "streamingvlm" else 3)


@pytest.mark.parametrize("family", SYSTEM)
def test_a_released_folder_reads_frames_as_ours_do(tmp_path, family):
    """preprocessor_config.json of that time names an image processor and none for video."""
    import numpy as np

    from swwatch.narrate.turns import TurnStream

    system = SYSTEM[family]
    ours = load(make_checkpoint(tmp_path / "toy", family=family, **SIZES), variant=system, device="cpu")
    rope = {"mrope_section": list(ours.model.config.text_config.rope_parameters["mrope_section"]), "type": "mrope"}
    theirs = load(write_released(tmp_path / "released", ours, family, rope), variant=system, device="cpu")
    frames = np.random.default_rng(0).integers(0, 255, (8, 56, 84, 3), dtype=np.uint8)
    said = []
    for loaded in (ours, theirs):
        stream, turns = TurnStream(loaded, policy="flat_1d" if system == "livecc" else None), []
        for i, frame in enumerate(frames):
            stream.push(i / 2, frame)
        stream.end()
        while (turn := stream.step()) is not None:
            turns.append(turn)
        said.append(turns)
    assert said[0] == said[1] and said[0][-1].end_s == 4.0


def test_vsts_release_streams_once_its_variant_is_named(tmp_path, clip, capsys):
    """Catalan258/VST-7B is a Qwen2.5-VL as its trainers saved it; nothing in the folder says what it is."""
    ours = load(make_checkpoint(tmp_path / "toy", **SIZES), variant="vst", device="cpu")
    rope = {"mrope_section": list(ours.model.config.text_config.rope_parameters["mrope_section"]), "type": "default"}
    folder = str(write_released(tmp_path / "released", ours, "qwen2_5_vl", rope | {"rope_type": "default"}))
    theirs = load(folder, variant="vst", device="cpu")
    assert theirs.settings == ours.settings and theirs.settings.pixel_budget == "vst"
    assert open_stream(theirs).thinks
    assert not open_stream(replace(theirs, settings=replace(theirs.settings, think=OFF))).thinks
    flags = ["--model", folder, "--video", str(clip), "--device", "cpu", "--max-new-tokens", "3"]
    assert run(stream, [*flags, "--variant", "vst", "--question", "Who is it?"]) == 0
    printed = capsys.readouterr().out
    assert "vst | Who is it?" in printed and "(thinks about 0-2 s)" in printed
    for more, why in (([], "does not name a variant"), (["--variant", "vst", "--think", "notes:2"], "in chat turns")):
        assert run(stream, [*flags, *more]) == 2
        assert why in capsys.readouterr().err
