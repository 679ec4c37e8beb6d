"""Video that leaves the device and comes back is what it was, bit for bit; and what a question is near to."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.engine.keeping import search
from swwatch.model.loading import load
from swwatch.rules.layout import KINDS, Kind, Layout
from swwatch.rules.patch import Placed
from swwatch.rules.visibility import WATCHED
from swwatch.toy.checkpoint import make_checkpoint

SIZE, LONG = 3, 10**12


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Two layers, and four query heads over two key heads, so that heads can be mixed up."""
    size = {"hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2, "vision_depth": 1, "vision_hidden": 32}
    return load(make_checkpoint(tmp_path_factory.mktemp("p") / "model", **size), variant="group", device="cpu").model


def watched(model, num_blocks: int, seed: int, moves: bool = True):
    """A cache with a prompt of two tokens, blocks of a 1 x 3 grid, and one token more, at random places; its ids."""
    generator = torch.Generator().manual_seed(seed)
    length = 3 + SIZE * num_blocks
    starts = torch.randint(0, 50, (3, num_blocks), generator=generator)
    grid = torch.tensor([[0, 0, 0], [0, 0, 0], [0, 1, 2]])
    where = torch.cat([torch.zeros(3, 2), *(start[:, None] + grid for start in starts.T), torch.full((3, 1), 99)], 1)
    step = torch.tensor([0, 0, *(i for i in range(num_blocks) for _ in range(SIZE)), num_blocks])
    kind = torch.full((length,), KINDS.index(Kind.VIDEO))
    kind[:2] = KINDS.index(Kind.PROMPT)
    rows = Layout(kind, step, step * 0 + WATCHED, torch.arange(length), step, where.long())
    ids = torch.randint(0, 200, (length,), generator=generator)
    cache = model.new_cache(True, moves)
    model.step(cache, rows, model.embed(ids))
    return cache, rows, ids


def park_all(cache, num_blocks: int, room: float = LONG) -> None:
    """Park every block; what is left is the prompt and the last token."""
    for block in range(num_blocks):
        index = torch.arange(2 + SIZE * block, 2 + SIZE * (block + 1))
        start = tuple(cache.tokens[WATCHED].position_ids[:, index[0]].tolist())
        cache.parking.park(index, Placed(start, 1, SIZE), 1, room)
    cache.keep(WATCHED, torch.tensor([0, 1, 2 + SIZE * num_blocks]))


def same(picks, model) -> torch.Tensor:
    return torch.tensor([picks] * model.config.text_config.num_hidden_layers)


@pytest.mark.parametrize("moves", [True, False])
@given(st.integers(1, 4), st.integers(0, 99), st.booleans())
@settings(max_examples=15)
def test_all_that_is_parked_and_recalled_is_what_it_was_to_the_bit(model, moves, num_blocks, seed, saved):
    cache, rows, _ = watched(model, num_blocks, seed, moves)
    if moves:  # as after a window has slid
        cache.reindex(WATCHED, cache.tokens[WATCHED].position_ids + torch.arange(len(rows)))
    mark = cache.mark()
    after = replace(rows[:2], order=len(rows) + torch.arange(2), step=rows.step[-1] + torch.arange(2))
    before = model.step(cache, after, model.embed([5, 6]))
    cache.restore(mark)
    whole = cache.state()
    park_all(cache, num_blocks)
    assert len(cache.tokens[WATCHED]) == 3 and cache.nbytes < sum(x[WATCHED].nbytes for x in whole["stores"]) * 1.5
    if saved:
        state, cache = cache.state(), model.new_cache(True, moves)
        cache.load_state(state)
    cache.parking.recall(same(range(num_blocks), model))
    cache.keep(WATCHED, cache.tokens[WATCHED].order.argsort())
    for layer, stores in zip(cache.layers, whole["stores"], strict=True):
        assert torch.equal(layer.stores[WATCHED], stores[WATCHED])
    for name, column in vars(cache.tokens[WATCHED]).items():
        assert torch.equal(column, whole["tokens"][WATCHED][name]), name
    assert torch.equal(model.step(cache, after, model.embed([5, 6])), before)


@given(st.integers(0, 99))
@settings(max_examples=8)
def test_layers_that_recall_their_own_blocks_hold_what_they_would_if_all_recalled_those(model, seed):
    picks, where = [[0, 2], [1, 3]], None
    held = []
    for chosen in (picks, *([row] * 2 for row in picks)):
        cache, *_ = watched(model, 4, seed)
        park_all(cache, 4)
        blocks = cache.parking.recall(torch.tensor(chosen))
        tokens = cache.tokens[WATCHED]
        if chosen == picks:
            assert tokens.step[-2 * SIZE :].tolist() == [1] * SIZE + [3] * SIZE, "as late as the later of both"
            assert [block.placed.start for block in blocks] == [(0, 0, 0)] * 2
            where = torch.randint(0, 50, tokens.position_ids.shape)
        cache.reindex(WATCHED, where)
        held.append([layer.stores[WATCHED] for layer in cache.layers])
    for number, (own, theirs) in enumerate(zip(held[0], held[1:], strict=True)):
        torch.testing.assert_close(own, theirs[number], atol=2e-5, rtol=0)
    assert not torch.allclose(held[0][0], held[2][0], atol=1e-2)


@pytest.mark.parametrize("moves", [True, False])
@given(st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=8)
def test_a_question_is_compared_without_rotation_head_by_head(model, moves, num_blocks, seed):
    """The first layer's queries and keys come from the embeddings alone."""
    cache, rows, ids = watched(model, num_blocks, seed, moves)
    park_all(cache, num_blocks)
    asked = torch.tensor([7, 8, 9])
    question = replace(rows[:3], order=len(rows) + torch.arange(3), position_ids=rows.position_ids[:, :3] + 40)
    run = search(cache, question, model.embed(asked))
    feed = next(run)
    model.step(feed.cache, feed.rows, feed.embeds, feed.predicts)
    with pytest.raises(StopIteration) as end:
        run.send(None)
    layer = model.model.language_model.layers[0]
    query, key = (
        project(layer.input_layernorm(model.embed(x))).detach().unflatten(-1, (heads, -1))
        for project, x, heads in ((layer.self_attn.q_proj, asked, 4), (layer.self_attn.k_proj, ids, 2))
    )
    for block, score in enumerate(end.value.value[0].tolist()):
        mean = key[2 + SIZE * block : 2 + SIZE * (block + 1)].mean(0)
        expected = sum(float(query.mean(0)[head] @ mean[head // 2]) for head in range(4))
        assert score == pytest.approx(expected, abs=1e-4)
    assert len(cache.tokens[WATCHED]) == cache.get_seq_length() == 3, "the question is read and forgotten again"


def test_the_oldest_blocks_go_where_the_room_is_too_small(model):
    cache, *_ = watched(model, 4, 0)
    park_all(cache, 4)
    one = cache.parking.nbytes // 4
    cache, *_ = watched(model, 4, 0)
    park_all(cache, 4, room=2.5 * one)
    assert [int(block.tokens.step[0]) for block in cache.parking.blocks] == [2, 3] and cache.parking.num_parked == 4
    assert cache.parking.nbytes == 2 * one and cache.parking.alike()
