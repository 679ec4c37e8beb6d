"""Training steps on a CUDA device that is not there, see tests/helpers/shadow.py: gradients, mixed devices, waits."""

from collections import Counter

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from swwatch.data.collator import Collator
from swwatch.data.prompt import IGNORED, load_prompts
from swwatch.model.attention import block_mask, flash_segments
from swwatch.policies.speak import WaitK
from swwatch.train.adapters import adapt
from swwatch.train.settings import TrainSettings
from tests.helpers.shadow import backward, cuda_shadow, to_shadow
from tests.helpers.small_clips import clip_dataset

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device, which shows more")


def packed(loaded, clips, variant):
    """Two samples in one row and one in another."""
    dataset = clip_dataset(loaded, clips, variant, WaitK(3), prompts=load_prompts())
    samples = [dataset[0, i].sample for i in (0, 1, 2)]
    total = sum(int((s.labels != IGNORED).sum()) for s in samples)
    return Collator(0, multiple=64).rows([samples[:2], samples[2:]]) | {"num_items_in_batch": total}


def on_device(batch):
    return {name: x.to("cuda", non_blocking=True) if torch.is_tensor(x) else x for name, x in batch.items()}


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("variant, adapter", [("group", "none"), ("interleave", "none"), ("group", "lora")])
def test_a_packed_step_has_the_gradients_of_a_cpu(load_tiny, clips, variant, adapter):
    loaded = load_tiny(variant)
    batch = packed(loaded, clips, variant)
    with cuda_shadow() as shadow:
        model = loaded.model
        theirs = to_shadow(model, "cpu")
        if adapter != "none":
            torch.manual_seed(0)
            theirs = adapt(theirs, TrainSettings(adapter=adapter), None)
        ours = to_shadow(theirs)
        for each in (theirs, ours):
            each.train()
            (each.base_model.model if adapter != "none" else each).loss_way = "chunked"
        theirs(**batch).loss.backward()
        with shadow.counting() as seen:
            loss = ours(**on_device(batch)).loss
            backward(loss)
        want, have = gradients(theirs), gradients(ours)
        assert want.keys() == have.keys() and len(want) > (3 if adapter == "lora" else 50)
        for name, gradient in want.items():
            torch.testing.assert_close(have[name].cpu(), gradient, atol=1e-5, rtol=1e-3, msg=name)
        places = Counter(w.place.split(":")[0] for w in seen.waits)
        assert sum(places.values()) < 40, places
        assert not shadow.races


def test_a_step_in_bfloat16_by_autocast_takes_no_float32_product(load_tiny, clips):
    loaded = load_tiny("group")
    batch = packed(loaded, clips, "group")
    with cuda_shadow() as shadow:
        model = to_shadow(loaded.model).train()
        model.loss_way = "chunked"
        exact = model(**on_device(batch)).loss.item()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(**on_device(batch)).loss
        backward(loss)
        assert loss.item() == pytest.approx(exact, rel=0.05) and loss.item() != exact
        found = gradients(model)
        assert len(found) > 50 and all(g.dtype == torch.float32 and bool(g.isfinite().all()) for g in found.values())
        assert not shadow.races


def test_masks_for_flex_and_flash_are_made_on_the_device(load_tiny, clips):
    columns = {v: packed(load_tiny(v), clips, v)["columns"] for v in ("group", "interleave")}
    theirs = block_mask(columns["group"]), flash_segments(columns["interleave"])
    with cuda_shadow():
        there = {variant: x.to("cuda") for variant, x in columns.items()}
        mask, segments = block_mask(there["group"]), flash_segments(there["interleave"])
        for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks"):
            assert getattr(mask, name).device.type == "cuda"
            assert torch.equal(getattr(mask, name).cpu(), getattr(theirs[0], name))
        assert segments["max_length_q"] == theirs[1]["max_length_q"]
        assert segments["cu_seq_lens_q"].tolist() == theirs[1]["cu_seq_lens_q"].tolist()


# ---- shards: torch's fake collectives bring nothing, so what comes out means nothing ------------------------------


@pytest.fixture
def four_processes():
    """This one among four that answer at once."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield
    dist.destroy_process_group()


def in_shards(loaded):
    """FSDP2 around what accelerate puts it around: layers, and the rest; it computes in bfloat16."""
    model = to_shadow(loaded.model).train()
    how = {"mesh": init_device_mesh("cuda", (4,)), "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32)}
    pieces = [*model.model.language_model.layers, *model.model.visual.blocks]
    for layer in pieces:
        fully_shard(layer, **how)
    return fully_shard(model, **how), len(pieces)


def learn(model, batch):
    """A whole step, and what learned in it."""
    model.loss_way = "chunked"
    backward(model(**on_device(batch)).loss)
    parameters = [p for p in model.parameters() if p.grad is not None]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    torch.optim.AdamW(parameters, lr=1e-3).step()
    return parameters


def test_a_step_in_shards_gathers_each_layer_twice_and_waits_no_more_often(
    load_tiny, clips, four_processes, monkeypatch
):
    loaded = load_tiny("group")
    batch = packed(loaded, clips, "group")
    with cuda_shadow() as shadow:
        plain = to_shadow(loaded.model).train()
        model, num_pieces = in_shards(loaded)
        with shadow.counting() as alone:
            whole = learn(plain, batch)
        with shadow.counting() as seen:
            parts = learn(model, batch)
        assert Counter(seen.waits) == Counter(alone.waits) and shadow.races == []
        assert len(parts) == len(whole) == len(list(model.parameters()))
        for part, parameter in zip(parts, whole, strict=True):
            assert part.grad.shape == parameter.shape and part.grad.to_local().device == torch.device("cuda:0")
            assert part.grad.to_local().shape[0] == -(-len(parameter) // 4)
        gathers, scatters = (seen.launches[f"c10d._{name}_base_.default"] for name in ("allgather", "reduce_scatter"))
        assert gathers == 2 * num_pieces + 1, "forward and backward; the rest stays until its backward is over"
        assert scatters == num_pieces + 1
        monkeypatch.setattr(type(torch.cuda.current_stream()), "wait_event", lambda *_: None)
        learn(model, batch)
        assert any("comes behind no wait" in race for race in shadow.races), "streams of the engine that do not wait"
