"""Packed weights compute what plain ones do, are taken where they gained, and are measured once a machine."""

import json
from copy import deepcopy

import pytest
import torch
from torch import nn

from swwatch.engine.session import Session
from swwatch.engine.two_device import Copy
from swwatch.errors import UserError
from swwatch.model import packed, upstream
from swwatch.model.checks import check_pack
from swwatch.model.packed import ROWS, PackedLinear, chosen
from swwatch.policies.choose import Greedy
from tests.engine.test_batch import plain as words_of
from tests.engine.test_batch import together, whole
from tests.helpers.streams import random_stream

GAINED, LOST = (1.0, 0.5), (1.0, 1.2)


@pytest.fixture
def timed(monkeypatch, tmp_path):
    """timed(model, times) -> a packed copy, as if those times had been measured. Its `calls` counts measurements."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(packed.os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    calls = []

    def make(model, times):
        monkeypatch.setattr(packed, "measure", lambda layers: calls.append(len(layers)) or times)
        copy = deepcopy(model)
        packed.pack(copy)
        return copy

    make.calls = calls
    return make


@pytest.mark.parametrize(
    ("times", "takes"),
    [
        ([GAINED] * 4, (True,) * 4),
        ([LOST] * 4, (False,) * 4),
        ([(1.0, 1.0), GAINED, GAINED, (1.0, 1.04)], (True,) * 4),
        ([(1.0, 0.95)] * 4, (False,) * 4),
        ([LOST, GAINED, GAINED, LOST], (False, True, True, False)),
    ],
)
def test_what_never_costs_is_packed_alone_and_what_sometimes_does_by_rows(times, takes):
    assert chosen(times) == takes


@pytest.mark.parametrize("times", [[GAINED] * 4, [LOST, GAINED, GAINED, LOST]], ids=["alone", "beside plain ones"])
def test_sessions_together_say_the_same_words_with_packed_weights(load_tiny, timed, times, capsys):
    loaded = load_tiny("group")
    model = timed(loaded.model, times)
    layers = [module for module in model.modules() if isinstance(module, PackedLinear)]
    assert len(layers) == sum(timed.calls) == 7 * model.config.text_config.num_hidden_layers + 1
    assert all((layer.plain is None) == (times[0] == GAINED) for layer in layers)
    streams = [random_stream(loaded, [(2, 3)] * n, seed=n) for n in (2, 4, 3)]
    said = []
    for which in (loaded.model, model):
        runs = [whole(Session(which, s.prompt, choose=Greedy(max_new_tokens=12)), s) for s in streams]
        said.append([words_of(spoken) for spoken, _ in together(which, runs, at_once=3).values()])
    assert said[0] == said[1] and len({token for run in said[0] for _, token, *_ in run}) > 3
    printed = capsys.readouterr().err
    assert "packed" in printed and "MB more" in printed


@torch.no_grad()
def test_logits_are_those_of_plain_weights_for_any_number_of_rows(load_tiny, timed):
    plain = load_tiny("overlap").model
    model = timed(plain, [GAINED] * 4)
    table = plain.get_input_embeddings().weight
    assert model.get_input_embeddings().weight.equal(table), "which a tied head shares"
    for count in (1, 2, 5, 16, 40, 150):
        ids = torch.arange(count)[None]
        position_ids, mask = ids.expand(3, 1, -1), torch.ones(1, 1, count, count, dtype=torch.bool).tril()
        ours, theirs = (
            x(input_ids=ids, position_ids=position_ids, attention_mask=mask).logits for x in (model, plain)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_measuring_reads_both_forms_and_keeps_its_times(monkeypatch, tmp_path, load_tiny, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(packed.os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    model = load_tiny("group").model
    packed.pack(deepcopy(model))
    assert "measured in" in capsys.readouterr().err
    kept = packed.kept_times()
    assert len(kept) == len({layer.weight.shape for layer in packed.linear_layers(model).values()})
    for key, times in kept.items():
        assert len(times) == len(ROWS) and all(a > 0 and b > 0 for a, b in times) and "float32" in key
    monkeypatch.setattr(packed, "measure", None)
    packed.pack(deepcopy(model))
    assert "as measured before" in capsys.readouterr().err


def test_times_that_cannot_be_trusted_or_kept_are_told(monkeypatch, tmp_path, load_tiny, timed, capsys):
    model = load_tiny("group").model
    monkeypatch.setattr(packed.os, "getloadavg", lambda: (99.0, 1.0, 1.0))
    timed(model, [LOST] * 4)
    assert "the machine is busy (load 99.0)" in capsys.readouterr().err and not packed.times_file().exists()
    monkeypatch.setattr(packed.os, "getloadavg", lambda: (0.1, 1.0, 1.0))
    (tmp_path / "swwatch").write_text("a file where the folder would be")
    assert not timed(model, [LOST] * 4).packed
    assert "the times are not kept" in capsys.readouterr().err
    (tmp_path / "swwatch").unlink()
    for damaged in ("{", "[]", json.dumps({"a": 3})):
        packed.times_file().parent.mkdir(exist_ok=True)
        packed.times_file().write_text(damaged)
        assert packed.kept_times() == {}


def test_without_torchs_operators_nothing_is_packed_and_that_is_told(monkeypatch, load_tiny, timed, capsys):
    monkeypatch.setattr(upstream, "packed_product", lambda x, weight, bias: x @ torch.ones(16, 8))
    model = timed(load_tiny("group").model, [GAINED] * 4)
    assert not model.packed and all(type(layer) is nn.Linear for layer in packed.linear_layers(model).values())
    assert "nothing is packed: torch.ops.mkldnn._linear_pointwise computes something else" in capsys.readouterr().err


def test_what_cannot_be_packed_is_refused(load_tiny, timed):
    for pack, device, quantize, message in (
        ("on", None, None, "no packing 'on': choose off or auto"),
        ("auto", "cuda:0", None, "is for a CPU, and not for cuda:0"),
        ("auto", "cpu", "int8", "--quantize int8 leaves none: give one of them"),
    ):
        with pytest.raises(UserError, match=message):
            check_pack(pack, device, quantize)
    check_pack("auto", None, None)
    with pytest.raises(UserError, match="leave --pack out"):
        Copy(timed(load_tiny("group").model, [GAINED] * 4))
