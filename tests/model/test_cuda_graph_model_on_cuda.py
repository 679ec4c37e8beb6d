"""What only a GPU can show of the fast path: recorded forwards, no waiting, no recording once warm, flat memory."""

import copy
from contextlib import contextmanager
from dataclasses import replace
from random import Random

import pytest
import torch

from swwatch.engine.fused import FusedSession
from swwatch.engine.requests import drive
from swwatch.engine.session import Session
from swwatch.engine.source import Step
from swwatch.engine.trace import Spoken
from swwatch.model.cuda_graph_model import CudaGraphModel, row_bucket
from swwatch.policies.choose import Greedy
from swwatch.policies.chooser import Chooser, scores_of
from swwatch.policies.speak import WaitK
from swwatch.rules.cursor import Cursor
from swwatch.rules.variants import VARIANTS
from tests.helpers.feeds import Arrived, logits_of, random_feeds, small
from tests.helpers.serial import SerialSession
from tests.helpers.streams import play, random_stream

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def on_cuda(load_tiny):
    """on_cuda(variant, dtype) -> Loaded, a copy of the shared one."""

    def copied(variant: str, dtype: torch.dtype = torch.float32):
        loaded = load_tiny(variant)
        return replace(loaded, model=copy.deepcopy(loaded.model).to("cuda", dtype))

    return copied


@contextmanager
def waiting_forbidden():
    """Whatever makes the host wait for the device is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def to_cuda(feeds, dtype=torch.float32):
    return [(rows, embeds.to("cuda", dtype), predicts) for rows, embeds, predicts in feeds]


@pytest.mark.parametrize("variant", VARIANTS)
def test_replayed_forwards_equal_the_same_code_and_the_plain_model(on_cuda, variant):
    """fp32; TF32 is off by default in torch. The second round finds everything recorded."""
    model = on_cuda(variant).model
    feeds = to_cuda(random_feeds(variant, [(2, 3), (3, 4), (1, 1), (2, 2)], 15, Random(1).randint))
    plain, eager, quick = logits_of(model, feeds), logits_of(small(model, graphs=False), feeds), small(model)
    assert quick.num_graphs == 0
    for _ in range(2):
        ours = logits_of(quick, feeds)
        torch.testing.assert_close(ours, eager, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)
    assert quick.num_graphs > 3


def test_in_bfloat16_replayed_forwards_are_as_near_to_float32_as_eager_ones(on_cuda):
    feeds = random_feeds("group", [(3, 4)] * 4, 15, Random(2).randint)
    exact = logits_of(small(on_cuda("group").model, graphs=False), to_cuda(feeds))
    model, feeds = on_cuda("group", torch.bfloat16).model, to_cuda(feeds, torch.bfloat16)
    eager, replayed, plain = (
        logits_of(each, feeds) - exact for each in (small(model, graphs=False), small(model), model)
    )
    torch.testing.assert_close(replayed, eager, atol=1e-2, rtol=0)  # the same kernels on the same numbers
    assert replayed.square().mean() < 2 * plain.square().mean(), "farther from float32 than the plain model is"


@pytest.mark.parametrize("variant", VARIANTS)
def test_sessions_say_the_same_tokens_as_on_the_plain_model(on_cuda, variant):
    loaded = on_cuda(variant)
    stream, quick, said = random_stream(loaded, [(2, 3)] * 5), small(loaded.model), []
    for model in (loaded.model, quick, quick):  # the third session has the seat of the second
        session = SerialSession(model, stream.prompt, schedule=WaitK(3), choose=Greedy(max_new_tokens=24))
        said.append([token.token_id for token in play(session, stream)])
        del session
    assert said[0] == said[1] == said[2]


def test_sessions_in_one_replayed_forward_are_sessions_alone(on_cuda):
    model = on_cuda("group").model
    todo = [to_cuda(random_feeds("group", [(2, 2)] * 3, 6, Random(seed).randint, seed)) for seed in range(3)]
    theirs, quick = [logits_of(model, feeds) for feeds in todo], small(model, seats=4)
    caches, ours = [quick.new_cache() for _ in todo], [[] for _ in todo]
    while any(todo):
        waiting = [i for i, feeds in enumerate(todo) if feeds]
        feeds = [todo[i].pop(0) for i in waiting]
        logits = quick.step_many([caches[i] for i in waiting], *zip(*feeds, strict=True))
        for i, row in zip(waiting, logits, strict=True):
            ours[i].append(row)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.stack(mine), reference, atol=1e-4, rtol=1e-4)


def test_a_step_and_its_words_wait_for_nothing_but_the_id_and_record_nothing_once_warm(on_cuda):
    loaded = on_cuda("group", torch.bfloat16)
    model = CudaGraphModel(loaded.model, 600, 300)
    stream = random_stream(loaded, [(4, 4)] * 30)
    pixels = [each.cuda() for each in stream.pixels]
    recorded = model.warm_up([(1,), (5,), (16,), (1 + 4,)], stream.grids[:1])
    cursor, cache = Cursor(VARIANTS["group"], model.t_per_step), model.new_cache()
    chooser = Chooser(Greedy(1.15), model.config.text_config.vocab_size, "cuda", stops={1})
    with waiting_forbidden():
        model.step(cache, cursor.prompt(5), model.embed(stream.prompt), None)
        chooser.see(stream.prompt)
    token = torch.tensor([3], device="cuda")
    for step in range(30):
        with waiting_forbidden():
            looked = model.begin_watching(pixels[step], stream.grids[step])
            model.step(cache, cursor.watch(*stream.merged[step]), looked.take(), None)
        for _ in range(3):
            row = cursor.say(1, step)
            with waiting_forbidden():
                logits = model.step(cache, row, model.embed([int_of(token)]))
                token = scores_of(chooser, logits[None], chooser.seen[None], False).argmax(-1)
                chooser.seen.index_fill_(0, token, True)
    assert model.num_graphs == recorded
    assert cache.length == 5 + 30 * 16 + 30 * 3


def int_of(token: torch.Tensor) -> int:
    """Read an id in the midst of a region where waiting is forbidden: the one wait of a token."""
    torch.cuda.set_sync_debug_mode("default")
    value = int(token)
    torch.cuda.set_sync_debug_mode("error")
    return value


@pytest.mark.parametrize("kind", [Session, FusedSession])
def test_a_whole_session_waits_for_its_ids_alone(on_cuda, monkeypatch, kind):
    """Nothing is recorded in it either: recording waits too."""
    loaded = on_cuda("group", torch.bfloat16)
    model, stream = CudaGraphModel(loaded.model, 600, 300), random_stream(loaded, [(4, 4)] * 20)
    pixels = [each.cuda() for each in stream.pixels]
    recorded = model.warm_up({(row_bucket(n),) for n in range(1, 33)}, stream.grids[:1])

    def choose(self, logits, may_stop):
        return int_of(self.pick(logits, may_stop))

    monkeypatch.setattr(Greedy, "choose", choose)
    session = kind(model, stream.prompt, schedule=WaitK(3), choose=Greedy(max_new_tokens=60))
    steps = [Step(*step, i + 0.5, i == 19) for i, step in enumerate(zip(pixels, stream.grids, strict=True))]
    with waiting_forbidden():
        said = sum(isinstance(event, Spoken) for event in drive(model, session.run(Arrived(steps))))
    assert said == 60 and model.num_graphs == recorded


def test_the_tower_beside_the_words_sees_what_the_plain_models_does(on_cuda):
    loaded = on_cuda("group")
    stream = random_stream(loaded, [(4, 5), (2, 2), (4, 5), (2, 2), (4, 5)])
    theirs = [loaded.model.watch_video(*pair) for pair in zip(stream.pixels, stream.grids, strict=True)]
    for graphs in (True, False):
        model = small(loaded.model, graphs=graphs)
        looked = [model.begin_watching(*pair) for pair in zip(stream.pixels, stream.grids, strict=True)]
        for one, expected in zip(looked, theirs, strict=True):
            torch.testing.assert_close(one.take(), expected, atol=1e-4, rtol=1e-4)
        assert model.num_graphs == (2 if graphs else 0)


def test_memory_stays_flat_over_a_thousand_steps(on_cuda):
    """Ten sessions of a hundred steps and two words each; what the first one needed is all that is ever needed."""
    loaded = on_cuda("group", torch.bfloat16)
    model = CudaGraphModel(loaded.model, 450, 220)
    stream, used = random_stream(loaded, [(2, 2)]), []
    pixels, grid = stream.pixels[0].cuda(), stream.grids[0]
    for _ in range(10):
        cursor, cache = Cursor(VARIANTS["group"], model.t_per_step), model.new_cache()
        model.step(cache, cursor.prompt(5), model.embed(stream.prompt), None)
        for step in range(100):
            model.step(cache, cursor.watch(2, 2), model.watch_video(pixels, grid), None)
            for _ in range(2):
                int(model.step(cache, cursor.say(1, step), model.embed([3])).argmax())
        del cache
        used.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
    assert len(set(used[1:])) == 1, used


def test_two_fast_models_on_two_streams_do_not_disturb_each_other(on_cuda):
    model = on_cuda("group").model
    feeds = to_cuda(random_feeds("group", [(2, 2)] * 6, 15, Random(3).randint))
    expected, one = logits_of(model, feeds), small(model)
    two, side = one.another(), torch.cuda.Stream()
    for _ in range(3):
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            theirs = logits_of(two, feeds)
        ours = logits_of(one, feeds)
        torch.cuda.synchronize()
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(theirs, expected, atol=1e-4, rtol=1e-4)
    with torch.cuda.stream(side), pytest.raises(RuntimeError, match="another"):
        logits_of(one, feeds)
