"""A folder in the very form of Qwen/Qwen3-VL-4B-Instruct loads as it is and narrates.

The form is that of transformers 4.57: rotary settings under `rope_scaling`, weights of bfloat16 that are called
`model.language_model...` and `model.visual...`, no `lm_head` where it is tied, heads wider than the width divided by
their number, a file of settings for pictures and one for videos. Two layers, a quarter of the widths; random weights.
"""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

import swwatch
from swwatch.model.cuda_graph_model import CudaGraphModel
from swwatch.model.loading import load
from swwatch.toy.checkpoint import CHAT_TEMPLATE, SYSTEM_BY_DEFAULT, make_tokenizer
from tests.helpers.tiny import spread
from tests.model.test_released_form import write_tokenizer

SHARE = 4  # of the widths


def released_config(tokenizer, share: int) -> dict:
    """config.json of the 4B, of two layers and narrower."""
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("im_end", "endoftext", "video_pad")}
    ids |= {
        name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "vision_start", "vision_end")
    }
    text = {"attention_bias": False, "attention_dropout": 0.0, "dtype": "bfloat16", "head_dim": 128}
    text |= {"bos_token_id": ids["endoftext"], "eos_token_id": ids["im_end"], "hidden_act": "silu", "use_cache": True}
    text |= {"hidden_size": 2560 // share, "intermediate_size": 9728 // share, "num_attention_heads": 32 // share}
    text |= {"num_hidden_layers": 2, "num_key_value_heads": 8 // share, "rms_norm_eps": 1e-6, "rope_theta": 5_000_000}
    text |= {"model_type": "qwen3_vl_text", "max_position_embeddings": 262_144, "initializer_range": 0.02}
    text |= {"rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"}}
    text |= {"tie_word_embeddings": True, "vocab_size": len(tokenizer) + 7}
    vision = {"deepstack_visual_indexes": [1, 3], "depth": 4, "hidden_act": "gelu_pytorch_tanh", "in_channels": 3}
    vision |= {"hidden_size": 1024 // share, "intermediate_size": 4096 // share, "num_heads": 16 // share}
    vision |= {"out_hidden_size": 2560 // share, "num_position_embeddings": 2304, "patch_size": 16}
    vision |= {"spatial_merge_size": 2, "temporal_patch_size": 2, "model_type": "qwen3_vl", "initializer_range": 0.02}
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "image_token_id": ids["image_pad"],
        "model_type": "qwen3_vl",
        "text_config": text,
        "tie_word_embeddings": True,
        "transformers_version": "4.57.0.dev0",
        "video_token_id": ids["video_pad"],
        "vision_config": vision,
        "vision_end_token_id": ids["vision_end"],
        "vision_start_token_id": ids["vision_start"],
    }


def write_released(folder: Path, share: int = SHARE) -> Qwen3VLForConditionalGeneration:
    """Fill the folder; returns upstream's model of it."""
    folder.mkdir()
    tokenizer = make_tokenizer(stamps=True)
    config = released_config(tokenizer, share)
    plain = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_dict(json.loads(json.dumps(config)))).eval()
    spread(plain)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    weights = {name: tensor.bfloat16() for name, tensor in plain.state_dict().items() if name != "lm_head.weight"}
    assert {name.split(".")[0] for name in weights} == {"model"}
    for name in ("language_model.layers.1.self_attn.k_norm", "visual.deepstack_merger_list.1.linear_fc2"):
        assert f"model.{name}.weight" in weights
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder, tokenizer, "qwen3_vl")
    (folder / "chat_template.json").write_text(
        json.dumps({"chat_template": CHAT_TEMPLATE.replace(SYSTEM_BY_DEFAULT, "")})
    )
    pictures = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "processor_class": "Qwen3VLProcessor"}
    pictures |= {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    files = {
        "preprocessor_config.json": {"size": {"longest_edge": 16_777_216, "shortest_edge": 65_536}}
        | pictures
        | {"image_processor_type": "Qwen2VLImageProcessorFast"},
        "video_preprocessor_config.json": {"size": {"longest_edge": 25_165_824, "shortest_edge": 4096}}
        | pictures
        | {"video_processor_type": "Qwen3VLVideoProcessor"},
        "generation_config.json": {"eos_token_id": [config["text_config"]["eos_token_id"]], "do_sample": True}
        | {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "transformers_version": "4.56.0"},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released") / "Qwen3-VL-4B-Instruct"
    return folder, write_released(folder)


def test_it_loads_with_all_its_weights_and_computes_what_upstream_computes(released):
    folder, plain = released
    loaded = load(folder, variant="origin", device="cpu")
    model, text = loaded.model, loaded.model.config.text_config
    stored = load_file(folder / "model.safetensors")
    ours = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    assert ours.keys() == stored.keys() and all(torch.equal(ours[name], stored[name].float()) for name in stored)
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr(), "they are one"
    assert (text.head_dim, text.rope_parameters["rope_theta"], model.num_deep) == (128, 5_000_000, 2)
    assert text.rope_parameters["mrope_section"] == [24, 20, 20]
    assert loaded.processor.video_processor.patch_size == 16
    assert type(loaded.processor) is transformers.Qwen3VLProcessor
    ids = torch.tensor([loaded.tokenizer.encode("a red circle moving left")])
    where = torch.arange(ids.shape[1]).expand(3, 1, -1)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids, position_ids=where).logits, plain(ids, position_ids=where).logits)


def test_it_narrates_a_file_on_both_engines_of_one_device_and_on_the_fast_path(released, clip):
    loaded = load(released[0], variant="group", device="cpu")
    said = {
        engine: [
            token.token_id
            for token in swwatch.narrate(loaded, clip, engine=engine, max_new_tokens=9, schedule="wait-k:2")
        ]
        for engine in ("serial", "fused")
    }
    quick = CudaGraphModel(loaded.model, 300, 40)
    fast = type(loaded)(quick, loaded.processor, loaded.settings, loaded.markup)
    said["fast"] = [t.token_id for t in swwatch.narrate(fast, clip, max_new_tokens=9, schedule="wait-k:2")]
    assert len(said["serial"]) > 3 and len({tuple(ids) for ids in said.values()}) == 1, said


def test_what_a_step_is_made_of_is_what_upstreams_processor_writes(released):
    """Ids of a digit each make the time stamps; a tokenizer that reads the processor's text finds the same."""
    loaded = load(released[0], variant="group", device="cpu")
    video = torch.zeros((24, 3, 64, 64), dtype=torch.uint8)
    kinds = {"fps": 2.0, "total_num_frames": 24, "frames_indices": list(range(24))}
    metadata = transformers.video_utils.VideoMetadata(**kinds)
    grid = {"video_grid_thw": torch.tensor([[12, 4, 4]]), "video_metadata": [metadata]}
    text = loaded.processor.replace_video_token(grid, 0)
    markup = loaded.markup
    ours = [[*markup.before(step), *[markup.video] * 4, *markup.closing] for step in range(len(video) // 2)]
    assert loaded.tokenizer.encode(text, add_special_tokens=False) == sum(ours, [])
