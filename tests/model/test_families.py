"""Every family of the list: one loader, one set of methods, the same promises."""

import json

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.errors import UserError
from swwatch.model.batched import BatchedTextAttention
from swwatch.model.families import model_class
from swwatch.model.loading import load
from swwatch.model.modeling import Watching
from swwatch.model.vision_attention import BatchedVisionAttention
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import WaitK
from swwatch.rules.families import FAMILIES, Family
from swwatch.rules.variants import VARIANTS
from swwatch.toy.checkpoint import make_checkpoint
from tests.helpers.streams import Told, full_forward, play, random_stream


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, family):
    sizes = {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "vision_depth": 2, "vision_hidden": 32}
    return make_checkpoint(tmp_path_factory.mktemp("one") / "model", family=family.name, seed=1, **sizes)


@pytest.fixture(scope="module")
def in_variant(folder):
    made = {}

    def build(variant: str):
        if variant not in made:
            made[variant] = load(folder, variant=variant, device="cpu")
        return made[variant]

    return build


def upstream(family: Family) -> type:
    return getattr(transformers, family.upstream)


def test_the_loader_knows_the_family_by_its_configuration(family, in_variant, tmp_path):
    model = in_variant("group").model
    assert type(model) is model_class(family.name)
    assert model.t_per_step == (2 if family.counts_seconds else 1)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="'llama': give one of qwen2_5_vl, qwen2_vl, qwen3_vl"):
        load(other, variant="group")


@pytest.mark.parametrize(("model_type", "why"), [("qwen3_vl_moe", "experts"), ("qwen3_5", "linear attention")])
def test_what_is_near_to_a_family_and_is_none_is_refused_with_the_reason(tmp_path, model_type, why):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(UserError, match=f"'{model_type}': .*{why}"):
        load(tmp_path, variant="group")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_has_a_file_whose_classes_run_upstreams(name):
    model, theirs = model_class(name), upstream(FAMILIES[name])
    assert model.family is FAMILIES[name] and model.config_class.model_type == name
    assert model.__bases__ == (Watching, theirs)
    for ours, mixin in (
        (model.text_attention, BatchedTextAttention),
        (model.vision_attention, BatchedVisionAttention),
    ):
        assert ours.__bases__[0] is mixin and ours.__bases__[1].__module__ == theirs.__module__


def test_vision_and_text_compute_what_transformers_computes(family, folder, in_variant):
    model, plain = in_variant("origin").model, upstream(family).from_pretrained(folder).eval()
    stream = random_stream(in_variant("origin"), [(2, 3), (2, 3)], answer_len=4)
    ours, tokens = full_forward(in_variant("origin"), stream, WaitK(3))
    for pixels, grid in zip(stream.pixels, stream.grids, strict=True):
        found = plain.model.get_video_features(pixels, grid)
        theirs = torch.cat([*found.pooler_output, *(found.deepstack_features if model.num_deep else [])], dim=-1)
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
def test_p1_streaming_equals_training_in_every_family(in_variant, variant, sizes, seed):
    loaded = in_variant(variant)
    stream = random_stream(loaded, sizes, seed=seed)
    theirs, _ = full_forward(loaded, stream, WaitK(3))
    session = Told(loaded.model, stream.prompt, schedule=WaitK(3), choose=Greedy(max_new_tokens=20)).tell(
        stream.answer
    )
    play(session, stream)
    torch.testing.assert_close(torch.stack(session.seen_logits), theirs, atol=1e-4, rtol=0)


def test_a_saved_model_is_an_upstream_checkpoint_again(family, in_variant, tmp_path):
    in_variant("gap").model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [family.upstream]
    _, info = upstream(family).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_a_checkpoint_that_streams_in_turns_is_settled_like_a_variant(folder, tmp_path):
    loaded = load(folder, variant="livecc", device="cpu")
    assert (loaded.settings.variant, loaded.settings.pixel_budget) == ("livecc", "livecc")
    loaded.model.save_pretrained(tmp_path)
    loaded.processor.save_pretrained(tmp_path)
    assert load(tmp_path, device="cpu").settings.variant == "livecc"
    with pytest.raises(UserError, match="was trained with variant 'livecc'"):
        load(tmp_path, variant="group")
