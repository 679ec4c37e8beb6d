"""The toy checkpoint folder has the form of a real one and is decided by its arguments."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, GenerationConfig, Qwen2_5_VLForConditionalGeneration

from swwatch.data.prompt import load_prompts
from swwatch.errors import UserError
from swwatch.toy.checkpoint import SPECIAL_TOKENS, make_checkpoint, make_tokenizer, mrope_section
from swwatch.toy.levels import LEVELS
from swwatch.toy.world import COLORS, DIRECTIONS, SHAPES, make_scene

TINY = {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "vision_depth": 2, "vision_hidden": 32}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_default_loads_whole_and_has_the_recipes_size(tmp_path):
    folder = make_checkpoint(tmp_path / "deep" / "model")
    model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert 1.2e6 < sum(p.numel() for p in model.parameters()) < 1.7e6
    text, vision = model.config.text_config, model.config.vision_config
    assert (text.hidden_size, text.num_hidden_layers, vision.depth, vision.hidden_size) == (128, 4, 3, 96)
    assert text.rope_parameters["mrope_section"] == [4, 6, 6] and text.rope_parameters["rope_theta"] == 1e4
    assert vision.tokens_per_second == 2 and vision.fullatt_block_indexes == [2]
    assert (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size) == (14, 2, 2)


def test_ids_agree_between_config_tokenizer_and_processor(tiny_checkpoint):
    config = AutoConfig.from_pretrained(tiny_checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    ids = dict(zip(SPECIAL_TOKENS, tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS), strict=True))
    assert len(set(ids.values())) == len(SPECIAL_TOKENS)
    assert config.architectures == ["Qwen2_5_VLForConditionalGeneration"]
    assert config.image_token_id == ids["<|image_pad|>"]
    assert config.video_token_id == ids["<|video_pad|>"] == processor.video_token_id
    assert config.vision_start_token_id == ids["<|vision_start|>"]
    assert config.vision_end_token_id == ids["<|vision_end|>"]
    assert tokenizer.eos_token_id == ids["<|im_end|>"] == config.text_config.eos_token_id
    assert tokenizer.pad_token_id == ids["<|endoftext|>"]
    generation = GenerationConfig.from_pretrained(tiny_checkpoint)
    assert generation.eos_token_id == [ids["<|im_end|>"], ids["<|endoftext|>"]]
    assert config.text_config.vocab_size > len(tokenizer)  # real checkpoints have rows to spare, too


def test_chat_layout_is_qwens(tiny_checkpoint):
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    user = {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "video"}]}
    system = {"role": "system", "content": "Be brief."}
    wanted = "<|im_start|>user\nWhat?<|vision_start|><|video_pad|><|vision_end|><|im_end|>\n<|im_start|>assistant\n"
    helpful = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    for renderer in (processor, processor.tokenizer):
        assert renderer.apply_chat_template([user], tokenize=False, add_generation_prompt=True) == helpful + wanted
    brief = processor.apply_chat_template([system, user], add_generation_prompt=True)
    assert brief == "<|im_start|>system\nBe brief.<|im_end|>\n" + wanted
    answer = {"role": "assistant", "content": "A cat."}
    full = processor.apply_chat_template([user, answer])
    assert full == helpful + wanted + "A cat.<|im_end|>\n"


def test_the_processor_turns_a_video_into_the_models_input(tiny_checkpoint):
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_checkpoint)
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}]}], add_generation_prompt=True
    )
    video = torch.randint(0, 256, (4, 3, 56, 84), dtype=torch.uint8)
    inputs = processor(text=[text], videos=[video], return_tensors="pt", do_sample_frames=False)
    assert inputs["video_grid_thw"].tolist() == [[2, 4, 6]]
    assert (inputs["input_ids"] == model.config.video_token_id).sum() == 2 * 2 * 3
    with torch.no_grad():
        logits = model(**{key: value for key, value in inputs.items() if key != "second_per_grid_ts"}).logits
    assert logits.shape == (1, inputs["input_ids"].shape[1], model.config.text_config.vocab_size)
    assert torch.isfinite(logits).all()


def test_the_picture_reaches_the_text(tiny_checkpoint):
    """Weights must be large enough for what was seen to matter in what is said."""
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_checkpoint)
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}]}], add_generation_prompt=True
    )
    logits = []
    for color in (0, 255):
        video = torch.full((2, 3, 56, 56), color, dtype=torch.uint8)
        inputs = processor(text=[text], videos=[video], return_tensors="pt", do_sample_frames=False)
        with torch.no_grad():
            logits.append(model(**{k: v for k, v in inputs.items() if k != "second_per_grid_ts"}).logits[0, -1])
    assert (logits[0] - logits[1]).std() > 0.01 * logits[0].std()


@pytest.mark.parametrize("level", LEVELS)
def test_toy_captions_count_3_to_5_tokens_a_second(tokenizer, level):
    for index in range(30):
        scene = make_scene(0, index, level=level)
        ids = tokenizer(scene.caption).input_ids
        assert 3 <= len(ids) / scene.duration_s <= 5
        if level == "single":
            assert len(ids) == 3 + 3 * scene.duration_s
        assert tokenizer.decode(ids) == scene.caption


def test_every_word_of_the_world_and_of_the_prompts_is_one_token(tokenizer):
    words = [*COLORS, *SHAPES, *DIRECTIONS, "a", "and", "moving", "turning", "video", "shows"]
    assert all(len(tokenizer(" " + word).input_ids) == 1 for word in words)
    assert [len(tokenizer(text).input_ids) for text in ("The", ",", ".", "\n", "user", "system", "assistant")] == [
        1
    ] * 7
    question = "What is the scene and activity shown in this video?"
    assert question == load_prompts().eval_question
    assert tokenizer.tokenize(question)[1:3] == ["\u0120is", "\u0120the"] and len(tokenizer(question).input_ids) == 11


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(tokenizer, text):
    import unicodedata

    assert tokenizer.decode(tokenizer(text).input_ids) == unicodedata.normalize("NFC", text)


def test_special_tokens_in_text_are_single_ids(tokenizer):
    text = "<|im_start|>user\n\u00e9<|vision_start|><|video_pad|><|vision_end|><|im_end|>\n"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert sum(i in tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS) for i in ids) == 5


def test_same_arguments_same_bytes(tmp_path):
    state = torch.random.get_rng_state()
    first, again = (make_checkpoint(tmp_path / name, seed=3, **TINY) for name in ("a", "b"))
    assert torch.equal(torch.random.get_rng_state(), state)  # a caller's own draws are not disturbed
    assert contents(first) == contents(again)
    other = contents(make_checkpoint(tmp_path / "c", seed=4, **TINY))
    assert {name for name, data in other.items() if data != contents(first)[name]} == {
        "model.safetensors",
        "toy_model.json",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]  # nothing left lying about


def test_a_finished_folder_is_kept_and_anything_else_refused(tmp_path):
    folder = make_checkpoint(tmp_path / "model", **TINY)
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    make_checkpoint(folder, **TINY)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    with pytest.raises(UserError, match="seed 0"):
        make_checkpoint(folder, seed=1, **TINY)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UserError, match="nothing that is made here"):
        make_checkpoint(tmp_path / "mine", **TINY)
    (tmp_path / "empty").mkdir()
    assert json.loads((make_checkpoint(tmp_path / "empty", **TINY) / "toy_model.json").read_text())["hidden"] == 32


@pytest.mark.parametrize(
    "sizes", [{"hidden": 30, "heads": 4}, {"heads": 4, "kv_heads": 3}, {"vision_hidden": 96, "vision_heads": 5}]
)
def test_sizes_that_do_not_fit_are_refused(tmp_path, sizes):
    with pytest.raises(UserError, match="heads"):
        make_checkpoint(tmp_path / "model", **sizes)
    assert not any(tmp_path.iterdir())


@given(st.integers(4, 128).map(lambda half: 2 * half))
def test_rotary_sections_fill_half_the_head(head_size):
    time, height, width = mrope_section(head_size)
    assert time + height + width == head_size // 2 and height == width > 0 and time > 0


def test_rotary_sections_are_qwens_at_head_size_128():
    assert mrope_section(128) == [16, 24, 24]
