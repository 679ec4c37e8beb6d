"""Weights in fewer bits: near to the plain ones, in the right layers, in copies too, and refused before loading."""

import json
import sys
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from swwatch.engine.two_device import Copy
from swwatch.errors import UserError
from swwatch.evaluate.model import identity
from swwatch.model import quantised, upstream
from swwatch.model.loading import load
from swwatch.model.quantised import FEW, Int8Linear


@given(st.integers(1, 5), st.integers(1, 40), st.sampled_from([1, FEW, FEW + 1]), st.booleans(), st.integers(0, 99))
@torch.no_grad()
def test_a_product_is_that_of_the_rounded_weights_whatever_the_sizes(blocks, outputs, rows, bias, seed):
    torch.manual_seed(seed)
    plain = nn.Linear(16 * blocks, outputs, bias=bias)
    layer, x = Int8Linear(plain), torch.randn(2, rows, 16 * blocks)
    weight = (layer.weight.float() * layer.scale[:, None].float())[:outputs]
    assert (weight - plain.weight).abs().max() <= plain.weight.abs().max() / 127 * 0.75
    wanted = x @ weight.T + (plain.bias if bias else 0)
    ours = layer(x)
    assert ours.shape == wanted.shape and ours.dtype == x.dtype
    torch.testing.assert_close(ours, wanted, rtol=0.03, atol=0.03 * float(wanted.abs().max()))


def test_the_llm_and_the_head_are_rounded_and_nothing_else(load_tiny, capsys):
    plain = deepcopy(load_tiny("group", schedule="head:12").model)
    names = {name for name, module in plain.named_modules() if isinstance(module, nn.Linear)}
    table = plain.get_input_embeddings().weight.clone()
    quantised.quantise(plain, "int8")
    rounded = {name for name, module in plain.named_modules() if isinstance(module, Int8Linear)}
    assert rounded == {name for name in names if "language_model" in name or name == "lm_head"}
    assert len(rounded) == 7 * plain.config.text_config.num_hidden_layers + 1
    assert plain.get_input_embeddings().weight.equal(table) and plain.dtype is torch.float32
    assert "quantize int8" in capsys.readouterr().err


def test_a_rounded_model_is_near_to_the_plain_one_and_another_for_results(tiny_checkpoint):
    plain, rounded = (load(tiny_checkpoint, variant="group", device="cpu", quantize=kind) for kind in (None, "int8"))
    ids = torch.arange(20)[None]
    position_ids, mask = ids.expand(3, 1, -1), torch.ones(1, 1, 20, 20, dtype=torch.bool).tril()
    logits = [x.model(input_ids=ids, position_ids=position_ids, attention_mask=mask).logits for x in (plain, rounded)]
    error = (logits[0] - logits[1]).norm() / logits[0].norm()
    assert 0 < error < 0.03
    known = [identity(str(tiny_checkpoint), loaded) for loaded in (plain, rounded)]
    assert known[1] == known[0] | {"quantize": "int8"}, "an evaluation of one is not continued with the other"


def test_a_copy_in_another_process_has_the_same_weights(load_tiny):
    model = deepcopy(load_tiny("group").model)
    quantised.quantise(model, "int8")
    copy = Copy(model).on("cpu")
    assert copy.quantised == "int8" and copy.state_dict().keys() == model.state_dict().keys()
    for name, value in copy.state_dict().items():
        assert value.equal(model.state_dict()[name]), name
    ids = torch.arange(5)
    assert copy.lm_head(copy.embed(ids)).equal(model.lm_head(model.embed(ids)))


@pytest.mark.parametrize(
    ("kind", "device", "message"),
    [
        ("int3", "cpu", "no weights 'int3': choose int8"),
        ("int4", "cpu", "int8 is the only kind that gains there.*use --quantize int8"),
        ("fp8", "cpu", "use --quantize int8"),
        ("int8", "mps", "no weights of fewer bits on mps"),
        ("int8", "cuda", "needs torchao: pip install torchao"),
        ("fp8", "cuda:1", r"needs compute capability 8.9, and cuda:1 has 8.0: use --quantize int8"),
    ],
)
def test_what_a_device_has_not_is_refused_before_loading(kind, device, message, monkeypatch):
    found = {"torchao": None if kind == "int8" else object()}
    monkeypatch.setattr(quantised.importlib.util, "find_spec", found.get)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(UserError, match=message):
        quantised.check_can_quantise(kind, device)


def test_weights_that_are_quantised_already_are_refused(tiny_checkpoint, tmp_path):
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"load_in_4bit": True}}))
    with pytest.raises(UserError, match="saved with quantised weights: leave --quantize out"):
        load(tmp_path, variant="group", device="cpu", quantize="int8")


def test_torchs_operator_is_looked_at_before_it_is_relied_on(monkeypatch):
    upstream.check_int8_product()
    monkeypatch.setattr(torch, "_weight_int8pack_mm", lambda x, weight, scale: x @ weight.to(x.dtype).T)
    with pytest.raises(UserError, match=r"_weight_int8pack_mm computes something else: torch .* checked with, 2\.11"):
        quantised.check_can_quantise("int8", "cpu")
    monkeypatch.delattr(torch, "_weight_int8pack_mm")
    with pytest.raises(UserError, match="there is no torch._weight_int8pack_mm"):
        quantised.check_can_quantise("int8", "cpu")


def test_torchao_is_given_the_same_layers(load_tiny, monkeypatch):
    model, seen = deepcopy(load_tiny("group").model), []

    class Int4WeightOnlyConfig:
        pass

    def quantize_(whole, config, filter_fn):
        if seen:
            raise AssertionError("Requires mslk >= 1.0.0")
        seen.extend(name for name, module in whole.named_modules() if filter_fn(module, name))

    names = dict.fromkeys(("Int8WeightOnlyConfig", "Float8WeightOnlyConfig"))
    library = SimpleNamespace(quantize_=quantize_, Int4WeightOnlyConfig=Int4WeightOnlyConfig, **names)
    monkeypatch.setitem(sys.modules, "torchao", SimpleNamespace(quantization=library))
    layers = quantised.linear_layers(model)
    quantised._by_torchao(model, layers, "int4")
    assert sorted(seen) == sorted(layers) and len(seen) > 7
    with pytest.raises(UserError, match="torchao refuses: Requires mslk"):
        quantised._by_torchao(model, layers, "int4")
