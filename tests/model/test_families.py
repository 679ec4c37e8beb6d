"""Qwen2-VL beside Qwen2.5-VL: one loader, one set of methods, the same promises."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.errors import UserError
from swwatch.model.loading import load
from swwatch.model.modeling import WatchingQwen2_5_VL, WatchingQwen2VL
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import WaitK
from swwatch.rules.variants import VARIANTS
from swwatch.toy.checkpoint import make_checkpoint
from tests.helpers.streams import Told, full_forward, play, random_stream


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    sizes = {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "vision_depth": 2, "vision_hidden": 32}
    return make_checkpoint(tmp_path_factory.mktemp("qwen2") / "model", family="qwen2_vl", seed=1, **sizes)


@pytest.fixture(scope="module")
def qwen2(folder):
    made = {}

    def build(variant: str):
        if variant not in made:
            made[variant] = load(folder, variant=variant, device="cpu")
        return made[variant]

    return build


def test_the_loader_knows_the_family_by_its_configuration(folder, qwen2, tiny_checkpoint, tmp_path):
    loaded = qwen2("group")
    assert type(loaded.model) is WatchingQwen2VL and loaded.model.t_per_step == 1
    assert type(load(tiny_checkpoint, variant="group", device="cpu").model) is WatchingQwen2_5_VL
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="'llama': give one of qwen2_5_vl, qwen2_vl"):
        load(other, variant="group")


def test_vision_and_text_compute_what_transformers_computes(folder, qwen2):
    from transformers import Qwen2VLForConditionalGeneration

    model, plain = qwen2("origin").model, Qwen2VLForConditionalGeneration.from_pretrained(folder).eval()
    stream = random_stream(qwen2("origin"), [(2, 3), (2, 3)], answer_len=4)
    ours, tokens = full_forward(qwen2("origin"), stream, WaitK(3))
    for pixels, grid in zip(stream.pixels, stream.grids, strict=True):
        theirs = torch.cat(plain.model.get_video_features(pixels, grid).pooler_output)
        torch.testing.assert_close(model.watch_video(pixels, grid), theirs, atol=1e-5, rtol=0)
    from swwatch.data.prompt import fill

    ids, labels = fill(tokens, model.markup, stream.prompt, stream.answer)
    with torch.no_grad():
        inputs = {"pixel_values_videos": torch.cat(stream.pixels), "video_grid_thw": torch.cat(stream.grids)}
        logits = plain(input_ids=ids[None], position_ids=tokens.position_ids[:, None], **inputs).logits[0]
    torch.testing.assert_close(ours, logits[:-1][labels[1:] != -100], atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=5), st.integers(0, 99))
@settings(max_examples=5)
def test_p1_streaming_equals_training_for_qwen2_too(qwen2, variant, sizes, seed):
    loaded = qwen2(variant)
    stream = random_stream(loaded, sizes, seed=seed)
    theirs, _ = full_forward(loaded, stream, WaitK(3))
    session = Told(loaded.model, stream.prompt, schedule=WaitK(3), choose=Greedy(max_new_tokens=20)).tell(
        stream.answer
    )
    play(session, stream)
    torch.testing.assert_close(torch.stack(session.seen_logits), theirs, atol=1e-4, rtol=0)


def test_a_saved_model_is_an_upstream_checkpoint_again(qwen2, tmp_path):
    from transformers import Qwen2VLForConditionalGeneration

    qwen2("gap").model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["Qwen2VLForConditionalGeneration"]
    _, info = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_a_checkpoint_that_streams_in_turns_is_settled_like_a_variant(folder, tmp_path):
    loaded = load(folder, variant="livecc", device="cpu")
    assert (loaded.settings.variant, loaded.settings.pixel_budget) == ("livecc", "livecc")
    loaded.model.save_pretrained(tmp_path)
    loaded.processor.save_pretrained(tmp_path)
    assert load(tmp_path, device="cpu").settings.variant == "livecc"
    with pytest.raises(UserError, match="was trained with variant 'livecc'"):
        load(tmp_path, variant="group")
