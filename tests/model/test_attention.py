"""One visibility rule, three executions: the same mask, the same logits, and no (L, L) tensor under FlexAttention."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode

from swwatch.data.batch import stack_rows
from swwatch.data.prompt import fill
from swwatch.errors import UserError
from swwatch.model import attention
from swwatch.model.attention import (
    block_mask,
    check_attention,
    choose_attention,
    dense_mask,
    flash_segments,
    split_samples,
)
from swwatch.policies.speak import WaitK
from swwatch.policies.think import Notes
from swwatch.rules.cursor import layout
from swwatch.rules.variants import VARIANTS, get
from tests.helpers.streams import random_stream

CAUSAL = [name for name in VARIANTS if get(name).streams == 1]


def rows_of(variant, sizes, left=False, thinks=False, carried=False):
    """Columns of rows of samples, each size (prompt, steps, answer)."""
    thinks = thinks and get(variant).streams == 2
    plans = {n: Notes(2).plan(n, 1.0) if thinks else None for row in sizes for _, n, _ in row}
    rows = [[layout(variant, p, [(3, 5)] * n, a, thoughts=plans[n]) for p, n, a in row] for row in sizes]
    return stack_rows([[s.carried() if carried else s for s in row] for row in rows], left=left)[1]


def unrolled(mask, length):
    """What a BlockMask lets attend, pair by pair (B, L, L): full blocks whole, partial ones by its rule."""
    batch, blocks = len(mask.kv_num_blocks), mask.kv_indices.shape[-1]
    seen = torch.zeros((batch, blocks * attention.BLOCK, blocks * attention.BLOCK), dtype=torch.bool)
    index = torch.arange(attention.BLOCK)
    for b in range(batch):
        for counts, indices, full in (
            (mask.kv_num_blocks, mask.kv_indices, False),
            (mask.full_kv_num_blocks, mask.full_kv_indices, True),
        ):
            for q in range(blocks):
                for k in indices[b, 0, q, : counts[b, 0, q]].tolist():
                    rows, columns = q * attention.BLOCK + index, k * attention.BLOCK + index
                    rows, columns = rows[rows < length], columns[columns < length]
                    part = torch.tensor(True) if full else mask.mask_mod(b, 0, rows[:, None], columns)
                    seen[b, rows[:, None], columns] = part.expand(len(rows), len(columns))
    return seen[:, :length, :length]


@settings(max_examples=60, deadline=None)
@given(
    variant=st.sampled_from(list(VARIANTS)),
    sizes=st.lists(
        st.lists(st.tuples(st.integers(1, 20), st.integers(1, 30), st.integers(0, 90)), min_size=1, max_size=4),
        min_size=1,
        max_size=2,
    ),
    left=st.booleans(),
    block=st.sampled_from([16, 128]),
    thinks=st.booleans(),
    carried=st.booleans(),
)
def test_the_block_mask_is_the_dense_mask(variant, sizes, left, block, thinks, carried):
    columns = rows_of(variant, sizes, left, thinks, carried)
    before, attention.BLOCK = attention.BLOCK, block
    try:
        assert torch.equal(
            unrolled(block_mask(columns, carried), columns.shape[-1]), dense_mask(columns, carried)[:, 0]
        )
    finally:
        attention.BLOCK = before


@pytest.mark.parametrize("variant", VARIANTS)
def test_full_blocks_are_those_that_torch_finds_by_asking_for_every_pair(variant):
    columns = rows_of(variant, [[(12, 30, 90), (12, 3, 61)], [(12, 20, 60)]])
    length = columns.shape[-1]
    assert length % attention.BLOCK, "the last block should not be full"
    ours = block_mask(columns)
    theirs = create_block_mask(ours.mask_mod, len(columns), None, length, length, device="cpu")
    assert torch.equal(ours.full_kv_num_blocks, theirs.full_kv_num_blocks) and ours.shape == theirs.shape
    assert torch.equal(ours.full_q_num_blocks, theirs.full_q_num_blocks)
    assert bool((ours.kv_num_blocks >= theirs.kv_num_blocks).all()), "no block with a visible pair is skipped"


CASES = [
    *((name, False, False) for name in VARIANTS),
    ("gap", True, False),
    ("gap", False, True),
    ("group", True, True),
]


@pytest.mark.parametrize(("variant", "thinks", "carried"), CASES)
def test_blocks_are_skipped_and_left_unasked_wherever_they_can_be(variant, thinks, carried):
    """As many as looking at every pair of tokens finds: the summaries of the columns lose next to nothing."""
    columns = rows_of(variant, [[(12, 30, 90), (12, 20, 60), (12, 25, 75)]], thinks=thinks, carried=carried)
    length = columns.shape[-1] // attention.BLOCK * attention.BLOCK
    columns = columns[..., :length]
    blocks = (
        dense_mask(columns, carried)[0, 0].unflatten(0, (-1, attention.BLOCK)).unflatten(-1, (-1, attention.BLOCK))
    )
    best_some, best_every = blocks.any(1).any(-1), blocks.all(1).all(-1)
    some, every = (found[0] for found in attention._block_pairs(columns, carried))
    assert torch.equal(every, best_every)
    assert bool((some | ~best_some).all()) and int(some.sum()) <= int(best_some.sum()) + 2
    assert int(best_some.sum()) < 0.7 * some.numel(), "this input should have blocks to skip"


class Sizes(TorchDispatchMode):
    """Records the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


@pytest.mark.parametrize("variant", ["interleave", "gap"])
def test_the_largest_tensor_of_a_block_mask_grows_with_the_length_and_not_its_square(variant):
    largest = {}
    for samples in (2, 8):
        columns = rows_of(variant, [[(12, 30, 90)] * samples])
        with Sizes() as seen:
            block_mask(columns)
        largest[columns.shape[-1]] = seen.largest
    (short, few), (long, many) = largest.items()
    assert long == 4 * short and many <= 4 * few * 1.1
    assert many <= 8 * long < long**2 / 100
    with Sizes() as seen:  # the measure does see a square where there is one
        dense_mask(columns)
    assert seen.largest >= long**2


@pytest.mark.parametrize("variant", ["interleave", "gap"])
def test_a_whole_forward_under_flex_attention_holds_no_square(load_tiny, variant, monkeypatch):
    """Everything but the compiled kernel, which takes no square and gives none, runs under the measure."""
    from transformers.integrations import flex_attention as upstream

    def kernel(query, key, value, block_mask, **kwargs):
        assert isinstance(block_mask, BlockMask)
        return query

    monkeypatch.setattr(upstream, "compile_friendly_flex_attention", kernel)
    model, samples = load_tiny(variant, attention="flex").model, [layout(variant, 12, [(3, 5)] * 30, 90)] * 6
    position_ids, columns = stack_rows([samples])
    length = columns.shape[-1]
    with torch.no_grad(), Sizes() as seen:
        model(input_ids=columns[:, 0], position_ids=position_ids, columns=columns, logits_to_keep=1)
    widest = model.config.text_config.intermediate_size
    assert seen.largest <= length * max(widest, 128) < length**2 / 10


@pytest.mark.parametrize("variant", CAUSAL)
def test_segments_end_with_samples_and_rows_and_not_where_positions_start_anew(variant):
    samples = [layout(variant, 5, [(2, 3)] * n, 9) for n in (4, 2, 3)]
    positions, columns = stack_rows([samples[:2], samples[2:]])
    lengths = [len(s) for s in samples]
    assert variant != "batch" or int((positions[0, 0].diff() < 0).sum()) > 1, "positions of batch do start anew"
    segments = flash_segments(columns)
    padding = lengths[0] + lengths[1] - lengths[2]
    assert segments["cu_seq_lens_q"].diff().tolist() == [*lengths, padding]
    assert segments["cu_seq_lens_q"].dtype == torch.int32 and segments["max_length_k"] == max(*lengths, padding)
    mask = dense_mask(columns)
    for row in mask[:, 0]:  # the kernel's rule, causal inside a segment, is the variant's mask
        assert torch.equal(row, row.tril()) and int(row.sum(1).max()) <= segments["max_length_q"]
    assert int(mask.sum()) == sum(n * (n + 1) // 2 for n in [*lengths, padding])


def test_segments_of_a_parallel_mask_are_refused():
    with pytest.raises(UserError, match="sdpa or eager, or flex"):
        flash_segments(rows_of("group", [[(5, 4, 9)]]))


@pytest.mark.parametrize(
    ("variant", "device", "dtype", "flash", "want"),
    [
        ("group", "cpu", torch.float32, True, "sdpa"),
        ("group", "cuda", torch.bfloat16, True, "flex"),
        ("batch", "cuda:1", torch.bfloat16, True, "flash_attention_2"),
        ("batch", "cuda", torch.bfloat16, False, "flex"),
        ("origin", "cuda", torch.float32, True, "flex"),
    ],
)
def test_the_choice_depends_on_device_variant_and_number_format_and_says_why(variant, device, dtype, flash, want):
    backend, reason = choose_attention(variant, device, dtype, flash)
    assert backend == want and reason
    check_attention(variant, backend)


def batch_of(loaded, sizes):
    """Model inputs of one row of random samples, and the answer rows."""
    model, streams, tokens, ids = loaded.model, [], [], []
    for seed, (steps, answer) in enumerate(sizes):
        streams.append(random_stream(loaded, [(2, 3)] * steps, 4 + seed, answer, seed=seed))
        s = streams[-1]
        tokens.append(layout(model.settings.variant, len(s.prompt), s.merged, answer, schedule=WaitK(3)))
        ids.append(fill(tokens[-1], model.markup, s.prompt, s.answer)[0])
    position_ids, columns = stack_rows([tokens])
    pixels = torch.cat([p for s in streams for p in s.pixels])
    grids = torch.tensor([[len(s.grids), *s.grids[0][0, 1:].tolist()] for s in streams])
    videos = {"pixel_values_videos": pixels, "video_grid_thw": grids}
    return {"input_ids": torch.cat(ids)[None], "position_ids": position_ids, "columns": columns} | videos


@settings(max_examples=60, deadline=None)
@given(
    variant=st.sampled_from(list(VARIANTS)),
    sizes=st.lists(
        st.lists(st.tuples(st.integers(1, 20), st.integers(1, 9), st.integers(0, 40)), min_size=1, max_size=4),
        min_size=1,
        max_size=3,
    ),
    left=st.booleans(),
    carried=st.booleans(),
)
def test_samples_apart_see_what_they_see_in_the_dense_mask_and_nothing_else_is_visible_there(
    variant, sizes, left, carried
):
    columns = rows_of(variant, sizes, left, carried=carried)
    dense, apart = dense_mask(columns, carried)[:, 0], split_samples(columns, carried)
    if apart is None:  # where that is so is told by the next test
        return
    num_tokens, longest = columns[:, 0].numel(), apart.mask.shape[-1]
    assert torch.equal(apart.index[apart.back], torch.arange(num_tokens)), "every token is there and comes back"
    found = torch.zeros((num_tokens, num_tokens), dtype=torch.bool)
    for index, mask in zip(apart.index.view(-1, longest), apart.mask[:, 0], strict=True):
        assert mask.any(dim=1).all(), "a row without a key would give NaN"
        q, k = mask.nonzero().unbind(1)
        found[index[q], index[k]] = True
    assert torch.equal(found, torch.block_diag(*dense).bool())


def test_samples_go_apart_where_that_saves_half_of_the_pairs():
    assert split_samples(rows_of("gap", [[(5, 3, 9)]])) is None  # one sample: nothing to save
    assert split_samples(rows_of("gap", [[(5, 3, 9)], [(5, 3, 8)]])) is None  # a little padding
    assert len(split_samples(rows_of("gap", [[(5, 3, 9)] * 2])).mask) == 2
    assert split_samples(rows_of("gap", [[(5, 30, 9), (5, 1, 9)]])) is None  # a long one and a short one
    assert len(split_samples(rows_of("gap", [[(5, 3, 9)] * 3, [(5, 3, 9)] * 2])).mask) == 6  # padding is one too


@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_of_samples_apart_gives_the_logits_of_the_dense_mask(load_tiny, variant, monkeypatch):
    model = load_tiny(variant).model
    batch = batch_of(load_tiny(variant), [(2, 6), (3, 8), (3, 6)])
    assert isinstance(model.masks_for(batch["columns"])[0], dict)
    with torch.no_grad():
        ours = model(**batch, use_cache=True)
        monkeypatch.setattr("swwatch.model.modeling.split_samples", lambda *_: None)
        theirs = model(**batch, use_cache=True)
    torch.testing.assert_close(ours.logits, theirs.logits, atol=2e-5 * float(theirs.logits.abs().max()), rtol=0)
    length = batch["input_ids"].shape[1]
    assert ours.past_key_values.get_seq_length() == theirs.past_key_values.get_seq_length() == length


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["gap", "interleave"])
def test_flex_attention_gives_the_logits_of_the_dense_mask(load_tiny, variant):
    dense, flex = load_tiny(variant), load_tiny(variant, attention="flex")
    assert (dense.model.attention, flex.model.attention) == ("sdpa", "flex")
    assert flex.model.config.vision_config._attn_implementation == "sdpa"
    batch = batch_of(dense, [(9, 27), (14, 30), (3, 8)])
    assert batch["input_ids"].shape[1] > 128
    with torch.no_grad():
        theirs, ours = dense.model(**batch).logits, flex.model(**batch).logits
    # tol = float32 rounding of another order of summation, over logits of about this size
    torch.testing.assert_close(ours, theirs, atol=2e-5 * float(theirs.abs().max()), rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention has a backward pass on CUDA alone")
@pytest.mark.parametrize("variant", VARIANTS)
def test_flex_attention_gives_the_gradients_of_the_dense_mask(load_tiny, variant):
    gradients = []
    for backend in ("sdpa", "flex"):
        model = copy.deepcopy(load_tiny(variant, attention=backend).model).to("cuda")
        batch = {k: v.to("cuda") for k, v in batch_of(load_tiny(variant), [(9, 27), (14, 30), (3, 8)]).items()}
        model(**batch, labels=batch["input_ids"]).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    theirs, ours = gradients
    assert ours.keys() == theirs.keys() and len(ours) > 50
    for name, gradient in ours.items():
        scale = max(1e-3, float(theirs[name].abs().max()))
        torch.testing.assert_close(gradient, theirs[name], rtol=0, atol=2e-3 * scale)  # the kernels may use TF32


def test_flex_attention_refuses_to_train_on_a_cpu_and_to_take_a_dense_mask(load_tiny):
    loaded = load_tiny("gap", attention="flex")
    batch = batch_of(loaded, [(2, 6)])
    with pytest.raises(UserError, match="no backward pass on a CPU.*sdpa"):
        loaded.model(**batch)
    dense = {k: v for k, v in batch.items() if k != "columns"} | {"attention_mask": dense_mask(batch["columns"])}
    with pytest.raises(UserError, match="use sdpa or eager"), torch.no_grad():
        loaded.model(**dense)


def test_columns_and_a_mask_together_are_refused(load_tiny):
    loaded = load_tiny("gap")
    batch = batch_of(loaded, [(2, 6)])
    with pytest.raises(UserError, match="pass one of them"):
        loaded.model(**batch, attention_mask=dense_mask(batch["columns"]))


def varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, softmax_scale, **kwargs):
    """flash-attention's variable-length kernel, segment by segment. (T, N, D) each."""
    assert causal and torch.equal(cu_seqlens_q, cu_seqlens_k) and max_seqlen_q == int(cu_seqlens_q.diff().max())
    out, group = torch.empty_like(q), q.shape[1] // k.shape[1]
    for start, stop in zip(cu_seqlens_q[:-1].tolist(), cu_seqlens_q[1:].tolist(), strict=True):
        part = [
            x[start:stop].transpose(0, 1) for x in (q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1))
        ]
        attend = torch.nn.functional.scaled_dot_product_attention
        out[start:stop] = attend(*part, is_causal=True, scale=softmax_scale).transpose(0, 1)
    return out


@pytest.mark.parametrize("variant", CAUSAL)
def test_flash_attention_is_given_the_samples_as_segments(load_tiny, variant, monkeypatch):
    """The kernel itself needs CUDA; this one stands in for it, behind all of transformers' preparation."""
    from transformers import modeling_flash_attention_utils as utils

    def arguments(query_length, key_length, is_causal, softmax_scale=None, max_seqlen_q=None, max_seqlen_k=None, **_):
        return {
            "causal": is_causal,
            "softmax_scale": softmax_scale,
            "max_seqlen_q": max_seqlen_q,
            "max_seqlen_k": max_seqlen_k,
        }

    kernels = (None, varlen, None, None, None), arguments
    monkeypatch.setattr(utils, "lazy_import_flash_attention", lambda *a, **k: kernels)
    model = load_tiny(variant).model
    batch = batch_of(load_tiny(variant), [(5, 15), (2, 4), (3, 8)])
    with torch.no_grad():
        theirs = model(**batch).logits
        monkeypatch.setattr(model.config.text_config, "_attn_implementation_internal", "flash_attention_2")
        assert model.attention == "flash_attention_2"
        ours = model(**batch).logits
    torch.testing.assert_close(ours, theirs, atol=2e-5 * float(theirs.abs().max()), rtol=0)
