"""Qwen2.5-VL-3B on a CUDA device that is not there, without values and memory: see tests/helpers/shadow.py.

Layers repeat: there are two of them and two blocks of the vision tower, in their real widths.
"""

import pytest
import torch

from swwatch.engine.choose import open_session
from swwatch.engine.requests import Choose, Feed, Request, answer_to
from swwatch.model.loading import load
from swwatch.policies.choose import Greedy
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.variants import VARIANTS
from tests.helpers import turn_streams
from tests.helpers.feeds import small
from tests.helpers.released_shape import make_3b
from tests.helpers.shadow import OnShadow, cuda_shadow
from tests.helpers.streams import Paced, random_stream

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device, which shows more")

TWO = Greedy(1.05, 2)
PATCH = (8, 8)  # 64 video tokens
VOCABULARY = 151_936
PARAMETERS = 3_754_622_976  # as the index of the released safetensors says
TOKEN = {"plain": 43, "fast": 25}  # operators of a layer in a forward of one row, at most
STEP = {"plain": 46, "fast": 25}  # of many: the room for keys and values may have to grow
BESIDE = {"plain": 24, "fast": 35}  # of a forward beside its layers, at most


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory):
    return make_3b(tmp_path_factory.mktemp("shape") / "model", layers=2)


def new_run(loaded, path: str = "plain"):
    """A model and the requests of a session that watches a step and says two words."""
    model = loaded.model
    if model.settings.variant in SYSTEMS:
        steps = turn_streams.random_steps(loaded, 1, (PATCH,))
        return model, turn_streams.begin(loaded, choose=TWO).run(turn_streams.Steps(steps))
    model = model if path == "plain" else small(model, graphs=False)
    stream = random_stream(loaded, [PATCH])
    return model, open_session("serial", model, stream.prompt, choose=TWO).run(Paced(stream))


def requests_of(shadow, model, run):
    """Each request that was answered, with what its answer took."""
    found, answer = [], None
    for _ in range(10_000):
        try:
            request = run.send(answer)
        except StopIteration:
            return found
        with shadow.counting() as seen:
            answer = answer_to(model, request) if isinstance(request, Request) else None
        found.append((request, seen))
    raise AssertionError("it has no end")


def test_weights_go_to_the_device_once_and_take_no_memory(two_layers):
    with cuda_shadow(values=False) as shadow:
        loaded = load(two_layers, variant="group", device="cuda")
        weights = dict(loaded.model.named_parameters())
        # tied to the embedding's, unless a model of another test has taken that from transformers' class for good
        head = weights.pop("lm_head.weight", torch.empty(0)).numel()
        assert all(
            type(p.data) is OnShadow and p.inner.is_meta and p.dtype == torch.bfloat16 for p in weights.values()
        )
        layer, block = (
            sum(p.numel() for name, p in weights.items() if f"{kind}.1." in name) for kind in ("layers", "blocks")
        )
        count = sum(p.numel() for p in weights.values())
        assert count + (36 - 2) * layer + (32 - 2) * block == PARAMETERS
        assert 0 <= shadow.moved_bytes - 2 * (count + head) < 1e4
        assert {w.place.split(":")[0] for w in shadow.waits} == {"model/loading.py"}


@pytest.mark.parametrize("name", [*VARIANTS, *SYSTEMS])
def test_every_row_in_its_real_widths_waits_for_its_words_alone(two_layers, name):
    with cuda_shadow(values=False) as shadow:
        loaded = load(two_layers, variant=name, device="cuda")
        shadow.waits.clear()
        chosen = [request for request, _ in requests_of(shadow, *new_run(loaded)) if isinstance(request, Choose)]
        assert [w.place.split(":")[0] for w in shadow.waits] == ["policies/chooser.py"] * len(
            chosen
        ) and not shadow.races
        assert chosen and all(len(request.logits) == VOCABULARY for request in chosen)


@pytest.mark.parametrize("path", TOKEN)
def test_operators_of_a_layer_for_a_token_and_for_a_step_of_video(two_layers, path):
    """What two layers take, less what one does: about the same for one row as for a step of 64 video tokens."""
    forwards = []
    with cuda_shadow(values=False) as shadow:
        loaded = load(two_layers, variant="group", device="cuda")
        for layers in (2, 1):
            del loaded.model.model.language_model.layers[layers:]
            loaded.model.config.text_config.num_hidden_layers = layers
            found = requests_of(shadow, *new_run(loaded, path))
            forwards.append({len(r.rows): sum(s.launches.values()) for r, s in found if isinstance(r, Feed)})
    two, one = forwards
    assert two.keys() == one.keys() and 1 in two and max(two) > 64
    assert all(10 < two[rows] - one[rows] <= (TOKEN if rows == 1 else STEP)[path] for rows in two), forwards
    assert all(2 * one[rows] - two[rows] <= BESIDE[path] for rows in two), forwards
