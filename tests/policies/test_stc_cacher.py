"""STC-Cacher in the tower: its rule in a slow reading, the work that it spares, and a state of each stream's own."""

from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from swwatch.bench.stream.reprefill import Reprefill
from swwatch.config import read_settings
from swwatch.data.collator import Collator
from swwatch.engine.batch import Batch
from swwatch.engine.requests import drive
from swwatch.engine.session import Session
from swwatch.errors import UserError
from swwatch.evaluate.caption.settings import EvalSettings
from swwatch.model.cuda_graph_model import CudaGraphModel
from swwatch.model.loading import load
from swwatch.narrate.command import StreamSettings
from swwatch.pictures.command import main as inspect
from swwatch.policies.see.seen import Seen
from swwatch.policies.see.stc_cacher import StcCacher
from swwatch.policies.speak import WaitK
from swwatch.rules.families import FAMILIES
from swwatch.serve.settings import ServeSettings
from swwatch.toy.checkpoint import make_checkpoint
from swwatch.train.command import complete
from swwatch.train.settings import TrainSettings
from swwatch.watch.command import WatchSettings
from tests.engine import test_cuda_shadow as cuda
from tests.helpers.feeds import small
from tests.helpers.shadow import cuda_shadow, to_shadow
from tests.helpers.streams import Paced, random_stream, spoken_by
from tests.helpers.tiny import SIZES, make_tiny, tiny_loader
from tests.helpers.turn_streams import begin, play, random_steps
from tests.policies import test_seam as seam

clips, world = seam.clips, seam.world
GRIDS = [(2, 3)] * 6 + [(3, 2)] * 3
FEW = StcCacher(3, 0.3)


@pytest.fixture(scope="module", params=[name for name, row in FAMILIES.items() if not row.windows])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def tiny_checkpoint(made_once, family):
    sizes = SIZES | {"vision_depth": 3}
    return made_once(f"cached-{family}", lambda path: make_checkpoint(path, family=family, seed=1, **sizes))


@pytest.fixture(scope="module")
def load_tiny(tiny_checkpoint):
    return tiny_loader(tiny_checkpoint)


@pytest.fixture(scope="module")
def tiny(load_tiny):
    return load_tiny("group")


def alike(loaded, grids):
    """(pixels, grid) of a stream in which a picture is like the one before, here more and there less."""
    stream, patches = random_stream(loaded, grids), []
    for pixels, grid in zip(stream.pixels, stream.grids, strict=True):
        if patches and len(patches[-1][0]) == len(pixels):
            share = torch.linspace(0, 0.5, len(pixels))[:, None]
            pixels = patches[-1][0] * (1 - share) + pixels * share
        patches.append((pixels, grid))
    return patches


def look(model, stream: Seen, pixels, grid_thw):
    """One patch, as a session looks at it."""
    features = model.watch_video(pixels, grid_thw, reuse=stream.reuse)
    patch, kept = stream.look(features, tuple((grid_thw[0, 1:] // 2).tolist()), model.plain.num_deep)
    assert patch.num_dropped == 0 and kept is features
    return features


class Slow:
    """The rule, place by place: all is computed, and what the rule would not is thrown away."""

    def __init__(self, policy):
        self.policy, self.count, self.size, self.held, self.references = policy, 0, None, {}, []

    def enter(self, rows, columns):
        same = self.size == (rows, columns)
        self.count, self.size = self.count + 1 if same else 0, (rows, columns)
        self.references.append(self.count % self.policy.interval == 0)

    def run(self, block, states):
        block, turns, number = block.block, block._turns, block.number
        normed = block.norm1(states)
        q, k, v = block.attn.qkv(normed).view(len(states), 3, block.attn.num_heads, -1).unbind(1)
        q, k = apply_rotary_pos_emb_vision(q, k, *turns)
        chosen = list(range(len(k)))
        if not self.references[-1]:
            keys, values, attended, added = self.held[number]
            cosines = [float(torch.cosine_similarity(k[i].flatten(), keys[i].flatten(), dim=0)) for i in chosen]
            chosen = sorted(chosen, key=lambda i: cosines[i])[: max(1, round(self.policy.update * len(k)))]
            v = torch.stack([v[i] if i in chosen else values[i] for i in range(len(v))])
        weights = (torch.einsum("inc,jnc->nij", q, k) * q.shape[-1] ** -0.5).softmax(-1)
        mine = block.attn.proj(torch.einsum("nij,jnc->inc", weights, v).flatten(1))
        if not self.references[-1]:
            mine = torch.stack([mine[i] if i in chosen else attended[i] for i in range(len(v))])
        states = states + mine
        more = block.mlp(block.norm2(states))
        if self.references[-1]:
            self.held[number] = k, v, mine, more
            return states + more
        return states + torch.stack([more[i] if i in chosen else added[i] for i in range(len(v))])


@pytest.mark.parametrize("policy", [FEW, StcCacher(4, 0.0), StcCacher(2, 0.75)], ids=str)
def test_a_patch_is_what_the_rule_says_in_a_slow_reading(tiny, policy):
    model, stream, slow, differ = tiny.model, Seen(policy), Slow(policy), []
    for pixels, grid in alike(tiny, GRIDS):
        ours = look(model, stream, pixels, grid)
        torch.testing.assert_close(ours, model.watch_video(pixels, grid, reuse=slow), atol=1e-5, rtol=0)
        differ.append(float((ours - model.watch_video(pixels, grid)).abs().max()))
    assert [one < 1e-5 for one in differ] == slow.references and slow.references[6], "a new size is a reference"
    assert sum(slow.references) < len(GRIDS) / 2 + 1


@pytest.mark.parametrize("policy", [StcCacher(1), StcCacher(4, 1.0)], ids=str)
def test_where_all_is_computed_features_are_the_plain_towers(tiny, policy):
    stream = Seen(policy)
    for pixels, grid in alike(tiny, GRIDS):
        ours = look(tiny.model, stream, pixels, grid)
        torch.testing.assert_close(ours, tiny.model.watch_video(pixels, grid), atol=1e-5, rtol=0)


def test_between_references_a_place_that_is_not_renewed_costs_its_key_alone(tiny):
    """Multiply-adds twice, as torch counts them."""
    model, stream, times = tiny.model, Seen(StcCacher(4, 0.25)), []
    for pixels, grid in alike(tiny, [(3, 4)] * 5):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            look(model, stream, pixels, grid)
        times.append(counter.get_total_flops())
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.watch_video(pixels, grid)
    places, blocks = 48, model.model.visual.blocks
    width, inner = blocks[0].norm1.weight.shape[0], blocks[0].mlp.state_dict()
    inner = next(len(weight) for name, weight in inner.items() if name.endswith("fc1.weight"))
    spared = places - 12
    one = 2 * width * (3 * width + 2 * inner) + 2 * 2 * places * width  # query, value, output; both layers; attention
    assert times[0] == times[4] == counter.get_total_flops()
    assert times[1:4] == [times[0] - len(blocks) * spared * one] * 3


def test_a_patch_that_is_tried_again_changes_nothing_and_what_is_held_does_not_grow(tiny):
    once, twice, sizes = Seen(FEW), Seen(FEW), []
    for pixels, grid in alike(tiny, [(2, 3)] * 8):
        tiny.model.watch_video(pixels, grid, reuse=twice.reuse)
        ours, theirs = look(tiny.model, once, pixels, grid), look(tiny.model, twice, pixels, grid)
        assert torch.equal(ours, theirs)
        sizes.append(sum(part.numel() for block in once.reuse.held for part in block))
    blocks = tiny.model.model.visual.blocks
    assert set(sizes) == {4 * len(blocks) * 24 * SIZES["vision_hidden"]}


def test_the_fast_path_runs_it_too(tiny):
    quick, ours, theirs = CudaGraphModel(tiny.model, max_watched=64, max_said=64), Seen(FEW), Seen(FEW)
    for pixels, grid in alike(tiny, GRIDS[:4]):
        assert torch.equal(look(quick, ours, pixels, grid), look(tiny.model, theirs, pixels, grid))


ONE = partial(pytest.mark.parametrize, "family", indirect=True, scope="module")


@ONE(["qwen3_vl"])
def test_engines_batches_and_a_saved_stream_say_the_same_and_nothing_peeks(world, tiny, tmp_path):
    seam.test_p2_engines_agree(world, "group", FEW, WaitK(2))
    seam.test_p9_sessions_together_say_what_each_says_alone(world, "group", FEW)
    seam.test_p3_no_peeking(world, "group", FEW)
    model, samples = world("group", FEW, WaitK(2))
    stream = seam.stream_of(samples[0])
    steps = list(zip(stream.pixels, stream.grids, strict=True))
    first, second = (seam.told(model, stream) for _ in range(2))
    list(drive(model, first.begin()))
    for number, (pixels, grid) in enumerate(steps):
        if number == 4:
            torch.save(first.state(), tmp_path / "state")
            second.restore(torch.load(tmp_path / "state", weights_only=True))
            second.answer, second.seen_logits = second.answer[len(first.seen_logits) :], []
            num_before = len(first.seen_logits)
        for session in (first, second)[: 1 + (number >= 4)]:
            list(drive(model, session.watch(pixels, grid, number + 0.5, number == len(steps) - 1)))
    ours, theirs = torch.stack(second.seen_logits), torch.stack(first.seen_logits[num_before:])
    assert torch.equal(ours, theirs) and len(ours) > 3
    with pytest.raises(UserError, match="spares work while streaming.*train with see all"):
        model(**Collator(0).batch(samples))
    with pytest.raises(UserError, match="reprefill looks at all anew"):
        Reprefill(model, stream.prompt)


@ONE(["qwen2_vl"])
def test_a_look_that_fails_in_a_round_of_many_is_tried_again_from_where_it_was(world, monkeypatch):
    """The first session's patch is through when the second's fails, and goes through again with the halves."""
    model, samples = world("group", FEW, WaitK(2))
    streams = [seam.stream_of(sample) for sample in samples[:2]]
    alone = [spoken_by(model, Session(model, s.prompt, choose=seam.CHOOSE), Paced(s)) for s in streams]
    calls, real = [], model.watch_video

    def failing(*args, **how):
        calls.append(1)
        if len(calls) == 6:
            raise RuntimeError("once")
        return real(*args, **how)

    monkeypatch.setattr(model, "watch_video", failing)
    batch, said = Batch(model), {0: [], 1: []}
    for number, stream in enumerate(streams):
        batch.add(number, Session(model, stream.prompt, choose=seam.CHOOSE).run(Paced(stream)))
    while len(batch):
        for number, event in batch.advance():
            said[number].append(event)
    assert [seam.plain(events) for events in said.values()] == alone


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device, which shows more")
@ONE(["qwen2_vl"])
def test_on_a_device_the_host_waits_for_no_block_and_nothing_races(load_tiny):
    loaded, sizes = load_tiny("group", see=str(FEW)), [(2, 2)] * 5
    theirs = cuda.spoken(loaded, loaded.model, sizes=sizes)
    with cuda_shadow() as shadow:
        assert cuda.spoken(loaded, small(to_shadow(loaded.model)), "fused", sizes=sizes) == theirs
        assert cuda.waits(shadow) == [] and shadow.races == []


class Looks:
    """What a model sees, kept."""

    def __init__(self, look):
        self.look, self.seen = look, []

    def __call__(self, *args, **how):
        self.seen.append(self.look(*args, **how))
        return self.seen[-1]


@ONE(["qwen2_vl"])
def test_chat_turns_reuse_what_the_turns_before_saw(load_tiny, monkeypatch):
    loaded, said = load_tiny("livecc"), []
    steps = random_steps(loaded, 9)
    for see in ("all", "stc_cacher:4:update=1", "stc_cacher:3:update=0.3"):
        under = load_tiny("livecc", see=see)
        looks = Looks(under.model.watch_video)
        monkeypatch.setattr(under.model, "watch_video", looks)
        whole, ended = begin(under), begin(under)
        play(whole, steps)
        said.append(torch.cat(looks.seen))
        play(ended, steps[:4])
        state, num_before = ended.state(), len(looks.seen)
        again = begin(under)
        again.restore(state)
        play(again, steps[4:])
        assert torch.equal(torch.cat(looks.seen[num_before:]), torch.cat(looks.seen[4:9]))
    torch.testing.assert_close(said[1], said[0], atol=1e-5, rtol=0)
    assert not torch.allclose(said[2], said[0], atol=1e-3)


def test_a_tower_with_windows_is_refused_before_it_is_loaded_in_every_program(made_once, tmp_path):
    path, video, how = made_once("tiny", make_tiny), tmp_path / "a.mp4", {"see": "stc_cacher"}
    video.touch()
    why = "see stc_cacher:4:update=0.25 .*attend within windows.*or --see stc"
    programs = (
        StreamSettings(model=str(path), video=video, **how),
        EvalSettings(**how),
        WatchSettings(source=str(video), **how),
    )
    for settings in (*programs, ServeSettings(model=[str(path)], **how)):
        with pytest.raises(UserError, match=why):
            settings.check_model(path)
    with pytest.raises(UserError, match=why):
        load(path, variant="group", device="cpu", **how)
    with pytest.raises(UserError, match=why):
        inspect(["--see", "stc_cacher", "--video", str(video), "--model", str(path)])


def test_training_is_refused_with_the_reason(made_once):
    path = made_once("tiny", make_tiny)
    flags = ["--model-path", str(path), "--variant", "group", "--see", "stc_cacher"]
    with pytest.raises(UserError, match="train with see all, and give --see to what streams"):
        complete(read_settings(TrainSettings, flags, program="swwatch train", about=""))
