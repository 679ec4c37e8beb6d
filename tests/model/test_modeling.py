"""The model: variant from ids and grids, refusals instead of fallbacks (P7), a checkpoint that knows itself (P8)."""

import json

import pytest
import torch

from swwatch.data.prompt import fill
from swwatch.errors import UserError
from swwatch.model.families.qwen2_5_vl import WatchingQwen2_5_VL
from swwatch.model.loading import load
from swwatch.policies.speak import RandomK, WaitK
from swwatch.rules.cursor import layout
from swwatch.rules.variants import VARIANTS, Speaks, speaking
from tests.helpers.streams import random_stream

ALL = sorted(VARIANTS)


def sequence(loaded, stream, schedule=None):
    model = loaded.model
    tokens = layout(
        model.settings.variant, len(stream.prompt), stream.merged, len(stream.answer), schedule=schedule or WaitK(3)
    )
    return tokens, fill(tokens, model.markup, stream.prompt, stream.answer)[0]


def video(stream):
    grid = stream.grids[0].clone()
    grid[0, 0] = len(stream.grids)
    return {"pixel_values_videos": torch.cat(stream.pixels), "video_grid_thw": grid}


@pytest.mark.parametrize("variant", ALL)
def test_forward_derives_the_variant_from_ids_and_grids(load_tiny, variant):
    loaded = load_tiny(variant)
    stream = random_stream(loaded, [(2, 3)] * 4)
    tokens, ids = sequence(loaded, stream)
    given = {"position_ids": tokens.position_ids[:, None], "attention_mask": tokens.visible()[None, None]}
    with torch.no_grad():
        ours = loaded.model(input_ids=ids[None], **video(stream)).logits
        theirs = loaded.model(input_ids=ids[None], **given, **video(stream)).logits
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("variant", ALL)
def test_a_padded_batch_equals_its_samples(load_tiny, variant, left):
    loaded = load_tiny(variant)
    streams = [random_stream(loaded, [(2, 3)] * n, 4 + n, 10 + n, seed=n) for n in (2, 5)]
    ids = [sequence(loaded, s)[1] for s in streams]
    length = max(map(len, ids))
    pad = [(length - len(i), 0) if left else (0, length - len(i)) for i in ids]
    batch = torch.stack([torch.nn.functional.pad(i, p) for i, p in zip(ids, pad, strict=True)])
    real = torch.stack([torch.nn.functional.pad(torch.ones_like(i), p) for i, p in zip(ids, pad, strict=True)])
    videos = {key: torch.cat([video(s)[key] for s in streams]) for key in video(streams[0])}
    with torch.no_grad():
        together = loaded.model(input_ids=batch, attention_mask=real, **videos).logits
        for row, mask, i, stream in zip(together, real, ids, streams, strict=True):
            alone = loaded.model(input_ids=i[None], **video(stream)).logits[0]
            torch.testing.assert_close(row[mask.bool()], alone, atol=1e-4, rtol=0)


def test_eager_and_sdpa_agree_under_the_parallel_mask(load_tiny):
    logits = []
    for attention in ("sdpa", "eager"):
        loaded = load_tiny("group", attention=attention)
        assert loaded.model.config._attn_implementation == attention
        stream = random_stream(loaded, [(2, 3)] * 4)
        with torch.no_grad():
            logits.append(loaded.model(input_ids=sequence(loaded, stream)[1][None], **video(stream)).logits)
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)


def test_video_tower_step_by_step_equals_the_whole_clip(load_tiny):
    loaded = load_tiny("group")
    stream = random_stream(loaded, [(4, 6)] * 3)
    whole = loaded.model.watch_video(
        **{"pixel_values": torch.cat(stream.pixels), "grid_thw": torch.tensor([[3, 8, 12]])}
    )
    steps = torch.cat([loaded.model.watch_video(p, g) for p, g in zip(stream.pixels, stream.grids, strict=True)])
    torch.testing.assert_close(steps, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", ALL)
def test_a_sequence_it_cannot_parse_is_an_error(load_tiny, variant):
    loaded = load_tiny(variant)
    stream = random_stream(loaded, [(2, 3)] * 4)
    _, ids = sequence(loaded, stream)
    no_start, no_header = ids[ids != loaded.markup.vision_start], ids[ids != loaded.markup.header[0]]
    one_video_token_less = torch.cat([ids[:5], ids[6:]])
    for broken in (ids[5:], one_video_token_less, ids[:20], ids.flip(0), no_start, no_header):
        with pytest.raises(UserError, match="cannot read the sequence"):
            loaded.model(input_ids=broken[None], **video(stream))


def test_interleave_refuses_a_sequence_of_another_schedule_or_variant(load_tiny):
    loaded = load_tiny("interleave")
    stream = random_stream(loaded, [(2, 3)] * 4)
    _, other = sequence(loaded, stream, RandomK(3, seed=1))
    _, offline = sequence(load_tiny("origin"), stream)
    for ids in (other, offline):
        with pytest.raises(UserError, match="laid out for another variant or schedule|out of place"):
            loaded.model(input_ids=ids[None], **video(stream))


def test_positions_without_the_mask_are_refused_where_causal_would_be_wrong(load_tiny):
    loaded = load_tiny("group")
    stream = random_stream(loaded, [(2, 3)] * 4)
    tokens, ids = sequence(loaded, stream)
    with pytest.raises(UserError, match="mask of its own"):
        loaded.model(input_ids=ids[None], position_ids=tokens.position_ids[:, None], **video(stream))
    with pytest.raises(UserError, match="pass both"):
        loaded.model(input_ids=ids[None], attention_mask=tokens.visible()[None, None], **video(stream))


@pytest.mark.parametrize("variant", speaking(Speaks.PARALLEL))
def test_flash_attention_is_refused_where_it_cannot_be_exact(tiny_checkpoint, variant):
    with pytest.raises(UserError, match="use sdpa or eager, or flex"):
        load(tiny_checkpoint, variant=variant, attention="flash_attention_2")


def test_generate_points_to_the_engine(load_tiny):
    with pytest.raises(UserError, match="swwatch stream"):
        load_tiny("origin").model.generate(input_ids=torch.zeros(1, 3, dtype=torch.int64))


def test_checkpoint_knows_itself(load_tiny, tmp_path):
    loaded = load_tiny("gap")
    loaded.model.save_pretrained(tmp_path)
    loaded.processor.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["swwatch"]["variant"] == "gap"
    assert config["swwatch"]["schedule"] == "wait-k:3" and config["swwatch"]["see"] == "all"
    assert config["swwatch"]["pixel_budget"] == "declared"
    assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]
    again = load(tmp_path, device="cpu")
    assert again.settings == loaded.settings
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name]), name
    for wrong in ({"variant": "group"}, {"schedule": "wait-k:5"}, {"pixel_budget": "release"}):
        with pytest.raises(UserError, match="was trained with"):
            load(tmp_path, device="cpu", **wrong)
    assert load(tmp_path, device="cpu", variant="gap", schedule="wait-k:3").settings == loaded.settings


def test_plain_checkpoint_needs_a_variant(tiny_checkpoint):
    with pytest.raises(UserError, match="does not name a variant"):
        load(tiny_checkpoint)
    model = WatchingQwen2_5_VL.from_pretrained(tiny_checkpoint, variant="group")
    assert model.settings.variant == "group"


@pytest.mark.parametrize(
    "options, words",
    [
        ({"variant": "grp"}, "no variant"),
        ({"variant": "group", "pixel_budget": "huge"}, "declared, release"),
        ({"variant": "group", "attention": "flux"}, "attention backend"),
        ({"variant": "group", "dtype": "float99"}, "no dtype"),
    ],
)
def test_wrong_options_say_what_to_do(tiny_checkpoint, options, words):
    with pytest.raises(UserError, match=words):
        load(tiny_checkpoint, **options)


def test_missing_checkpoint_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for path in ("output/qwen2_5vl-pe-group", "models/mine"):  # no hub ids, though of their form
        with pytest.raises(UserError, match="no checkpoint at"):
            load(path, variant="group")
    with pytest.raises(UserError, match="swwatch toy model"):
        load(tmp_path / "nothing", variant="group")
    with pytest.raises(UserError, match="config.json"):
        load(tmp_path, variant="group")


def test_saved_weights_load_into_plain_qwen_and_back(load_tiny, tmp_path):
    """Stored names are the released checkpoints' own, whatever transformers calls the modules in memory."""
    from safetensors import safe_open
    from transformers import Qwen2_5_VLForConditionalGeneration

    loaded = load_tiny("group")
    loaded.model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    assert {"model.layers.0.self_attn.q_proj.weight", "visual.blocks.0.attn.qkv.weight"} <= names
    plain, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name]), name


def test_a_missing_weight_is_an_error_not_a_random_number(tiny_checkpoint, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.self_attn.q_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="1 weights are missing.*q_proj"):
        load(folder, variant="group")


@pytest.mark.parametrize("grids", [[[3, 8, 12]], [[2, 16, 16]], [[1, 4, 4], [2, 4, 4]], [[2, 20, 12]]], ids=str)
def test_batched_vision_attention_equals_upstream(load_tiny, grids):
    """Equal frames, equal windows, and unequal ones, which run as upstream does."""
    from unittest import mock

    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionAttention

    from swwatch.model.vision_attention import BatchedVisionAttention

    model = load_tiny("group").model
    grid = torch.tensor(grids)
    pixels = torch.randn(int(grid.prod(1).sum()), 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(0))
    ours = model.watch_video(pixels, grid)
    with mock.patch.object(BatchedVisionAttention, "forward", Qwen2_5_VLVisionAttention.forward), torch.no_grad():
        theirs = model.features(pixels, grid)  # which prepares nothing for the tower
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
