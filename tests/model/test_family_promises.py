"""The promises for Qwen3-VL, by the very tests that hold them for Qwen2.5-VL: time stamps, DeepStack and all."""

import pytest
import torch

from swwatch.engine.beside import TwoDeviceSession
from swwatch.engine.session import Session
from swwatch.engine.two_device import Copy
from swwatch.engine.watcher import ThreadWatcher
from swwatch.model.loading import load
from swwatch.policies.speak import RandomK, WaitK
from swwatch.rules.variants import VARIANTS, Speaks, speaking
from swwatch.toy.checkpoint import make_checkpoint
from tests.data.turns import test_samples as samples
from tests.engine import test_endless as endless
from tests.engine import test_flash_route as flash
from tests.engine import test_promises as promises
from tests.engine import test_turns as turns
from tests.helpers.streams import Paced, full_forward, random_stream, spoken_by
from tests.helpers.tiny import SIZES, tiny_loader
from tests.narrate import test_words as words
from tests.policies import test_learned as learned
from tests.policies import test_seam as seam

PARALLEL = speaking(Speaks.PARALLEL)
CASES = [(name, seam.SEES[(i + 1) % len(seam.SEES)], seam.SPEAKS[i % 2]) for i, name in enumerate(VARIANTS)]
FEW = ("interleave", "overlap")  # where a test takes long; what differs between variants is in the layouts
clips, world = seam.clips, seam.world


@pytest.fixture(scope="module")
def tiny_checkpoint(made_once):
    return made_once("tiny-qwen3", lambda path: make_checkpoint(path, family="qwen3_vl", seed=1, **SIZES))


@pytest.fixture(scope="module")
def load_tiny(tiny_checkpoint):
    return tiny_loader(tiny_checkpoint)


@pytest.fixture(scope="module")
def one_layer(made_once):
    sizes = SIZES | {"layers": 1}
    folder = made_once("one-qwen3", lambda path: make_checkpoint(path, family="qwen3_vl", **sizes))
    return {name: load(folder, variant=name, device="cpu") for name in ("overlap", "streamingvlm")}


@pytest.mark.parametrize(("variant", "see", "speak"), CASES, ids=str)
def test_what_is_streamed_is_what_was_trained(world, load_tiny, variant, see, speak):
    promises.test_p4_every_token_is_fed_once(load_tiny, variant, WaitK(3))
    promises.test_p6_every_token_knows_the_newest_frame_it_could_see(load_tiny, variant, RandomK(3, seed=5), True)
    seam.test_p1_and_p4_what_is_streamed_is_what_was_trained_and_every_token_is_fed_or_counted(
        world, variant, see, speak
    )
    if variant in FEW:
        seam.test_the_model_derives_what_the_collator_gives(world, variant, see)
        seam.test_p9_loss_and_gradients_of_packed_and_padded_samples_are_those_of_the_samples_alone(
            world, variant, see
        )


@pytest.mark.parametrize(("variant", "see", "speak"), CASES, ids=str)
def test_no_later_frame_changes_anything_earlier(world, load_tiny, variant, see, speak):
    promises.test_p3_no_peeking_while_streaming(load_tiny, variant)
    if VARIANTS[variant].speaks is not Speaks.OFFLINE:
        promises.test_p3_no_peeking_in_training(load_tiny, variant)
    if variant in FEW:
        seam.test_p3_no_peeking(world, variant, see)


@pytest.mark.parametrize(("variant", "see", "speak"), CASES, ids=str)
def test_engines_and_batches_agree(world, variant, see, speak):
    if variant in PARALLEL:
        seam.test_p2_engines_agree(world, variant, see, speak)
    if variant in (*FEW, "origin"):
        seam.test_p9_sessions_together_say_what_each_says_alone(world, variant, see)


@pytest.mark.parametrize(("variant", "name"), [("group", "gate"), ("interleave", "head")])
def test_a_model_decides_behind_the_end_of_each_picture_as_it_was_trained(load_tiny, variant, name):
    learned.test_p1_words_and_decisions_of_a_stream_are_those_of_the_training_sample(load_tiny, variant, name)


@pytest.mark.parametrize("variant", ["origin", "batch"])
def test_offline_equals_upstreams_generate_with_the_same_positions(load_tiny, tiny_checkpoint, variant):
    for penalty in (1.0, 1.15):
        promises.test_p5_offline_equals_plain_qwen_with_the_same_positions(
            load_tiny, tiny_checkpoint, variant, penalty
        )


def test_a_copy_for_a_second_device_is_the_same_model(load_tiny):
    loaded = load_tiny("gap")
    stream = random_stream(loaded, [(2, 3), (1, 2), (2, 2)])
    theirs = spoken_by(loaded.model, Session(loaded.model, stream.prompt, choose=seam.CHOOSE), Paced(stream))
    with ThreadWatcher(Copy(loaded.model).on("cpu"), "cpu") as watcher:
        beside = TwoDeviceSession(loaded.model, stream.prompt, choose=seam.CHOOSE, watcher=watcher)
        assert spoken_by(loaded.model, beside, Paced(stream, [0, 2, 1])) == theirs


@pytest.mark.parametrize("variant", ["origin", "interleave"])
def test_under_a_causal_backend_it_says_the_same(load_tiny, monkeypatch, variant):
    flash.test_streaming_under_a_causal_backend_equals_the_masked_forward(load_tiny, monkeypatch, variant, WaitK(3))


@pytest.mark.parametrize("variant", ["overlap", "group"])
def test_a_stream_without_end_forgets_stamps_with_their_patches(load_tiny, one_layer, variant):
    if variant in FEW:
        endless.test_in_one_layer_it_is_as_if_the_rest_had_been_all_there_ever_was(one_layer, variant)
    endless.test_what_is_kept_stands_as_a_stream_that_began_with_it(load_tiny, variant)


@pytest.mark.parametrize(("variant", "policy"), [("streamingvlm", "mrope_contiguous"), ("livecc", "mrope_full")])
def test_chat_turns_are_one_forward_over_the_conversation(load_tiny, variant, policy):
    turns.test_every_turn_has_the_logits_of_one_forward_over_the_whole_conversation(load_tiny, variant, policy)


def test_a_sample_in_chat_turns_has_the_ids_that_a_stream_reads_and_speaks(load_tiny):
    samples.test_the_ids_of_every_turn_are_those_that_a_stream_reads_and_speaks(load_tiny("streamingvlm"))


def test_on_the_fast_path_it_says_the_same_and_has_room_for_all(load_tiny):
    words.test_on_the_fast_path_it_says_the_same_and_has_room_for_all(load_tiny, "group")


def test_chat_turns_forget_as_if_the_rest_had_been_all_there_ever_was(load_tiny, one_layer, tmp_path):
    turns.test_in_one_layer_forgetting_is_as_if_the_rest_had_been_all_there_ever_was(
        one_layer, turns.SMALL, "mrope_contiguous"
    )
    turns.test_recompute_is_a_fresh_forward_over_the_window_at_every_turn(load_tiny)
    turns.test_a_saved_stream_goes_on_as_if_it_had_never_stopped(load_tiny, tmp_path)


def test_what_deeper_layers_are_given_matters(load_tiny, monkeypatch):
    """Or nothing above could tell that it was carried."""
    loaded = load_tiny("group")
    stream = random_stream(loaded, [(2, 3)] * 2)
    right, _ = full_forward(loaded, stream, WaitK(3))
    upstream = type(loaded.model.model.language_model)._deepstack_process
    monkeypatch.setattr(
        type(loaded.model.model.language_model),
        "_deepstack_process",
        lambda self, hidden, places, rows: upstream(self, hidden, places, torch.zeros_like(rows)),
    )
    wrong, _ = full_forward(loaded, stream, WaitK(3))
    assert (wrong - right).abs().max() > 1e-2
