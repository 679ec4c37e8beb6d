"""The loss without logits of whole sequences: the same loss, the same gradients, and positions stay the variant's."""

import sys
import types

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from swwatch.data.collator import Collator
from swwatch.data.prompt import load_prompts
from swwatch.errors import UserError
from swwatch.model import loss as losses
from swwatch.model.loss import choose_loss, token_loss
from swwatch.policies.speak import WaitK
from swwatch.rules.variants import VARIANTS
from tests.helpers.small_clips import clip_dataset


@pytest.fixture
def small_batch(clips):
    """small_batch(loaded) -> the model's inputs for two samples of different lengths."""

    def build(loaded):
        dataset = clip_dataset(loaded, clips, loaded.settings.variant, WaitK(3), prompts=load_prompts())
        return Collator(0).batch([dataset[0, i].sample for i in (0, 2)])

    return build


@pytest.fixture
def liger(monkeypatch):
    """A stand-in for liger-kernel with nothing but the loss, as its documentation has it; a list of its calls."""
    calls = []

    class LigerFusedLinearCrossEntropyLoss(nn.Module):
        def __init__(self, ignore_index=-100, reduction="mean"):
            super().__init__()
            self.ignore_index, self.reduction = ignore_index, reduction

        def forward(self, lin_weight, _input, target, bias=None):
            calls.append((lin_weight.shape, _input.shape, lin_weight.dtype, _input.dtype))
            logits = (_input @ lin_weight.T).float()
            return cross_entropy(logits, target, ignore_index=self.ignore_index, reduction=self.reduction)

    module = types.ModuleType("liger_kernel.transformers")
    module.LigerFusedLinearCrossEntropyLoss = LigerFusedLinearCrossEntropyLoss
    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", module)
    return calls


def run(loaded, batch, way, **kwargs):
    model = loaded.model
    model.zero_grad()
    model.loss_way = way
    try:
        out = model(**batch, **kwargs)
        out.loss.backward()
        return out, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    finally:
        model.loss_way = "whole"
        model.zero_grad()


@pytest.mark.parametrize("way", ["chunked", "single", "liger"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradients_are_those_of_transformers_loss(load_tiny, small_batch, variant, way, monkeypatch, liger):
    monkeypatch.setattr(losses, "CHUNK", 7)
    loaded = load_tiny(variant)
    batch = small_batch(loaded)
    for items in ({}, {"num_items_in_batch": torch.tensor(50)}):
        want, gradients = run(loaded, batch, "whole", **items)
        got, ours = run(loaded, batch, way, **items)
        assert got.logits is None and got.loss.item() == pytest.approx(want.loss.item(), rel=1e-6)
        assert ours.keys() == gradients.keys() and len(ours) > 50
        for name, gradient in gradients.items():
            # tol = float32 rounding of sums taken in another order, relative to the tensor's largest gradient
            torch.testing.assert_close(
                ours[name], gradient, rtol=1e-4, atol=1e-5 * max(1e-3, float(gradient.abs().max()))
            )
    assert len(liger) == (2 if way == "liger" else 0)


@pytest.mark.parametrize("way", ["chunked", "liger"])
def test_positions_and_mask_that_reach_the_llm_are_the_variants(load_tiny, small_batch, way, liger):
    for variant in VARIANTS:
        loaded, seen = load_tiny(variant), []
        batch = small_batch(loaded)
        hook = loaded.model.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs, seen=seen: seen.append(kwargs), with_kwargs=True
        )
        run(loaded, batch, "whole"), run(loaded, batch, way)
        hook.remove()
        whole, ours = seen
        assert ours["position_ids"].equal(whole["position_ids"]) and ours["position_ids"].equal(batch["position_ids"])
        assert ours["attention_mask"].equal(whole["attention_mask"])


def test_logits_exist_for_answer_tokens_only_and_a_chunk_at_a_time(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK", 8)
    sizes = []

    class Head(nn.Linear):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    labels = torch.full((2, 50), -100)
    labels[0, 30:], labels[1, 49] = 3, 4
    hidden = torch.randn(2, 50, 6, requires_grad=True)
    token_loss(hidden, labels, Head(6, 11)).backward()
    assert max(sizes) <= 8 and sum(sizes) == 2 * 21, "each row once forward and once for the gradient"
    assert bool((hidden.grad != 0).any(-1).sum() == 21)


def test_a_batch_without_labels_has_no_loss_and_no_gradient_but_does_not_fail():
    hidden = torch.randn(1, 5, 6, requires_grad=True)
    loss = token_loss(hidden, torch.full((1, 5), -100), nn.Linear(6, 11), num_items=torch.tensor(3))
    loss.backward()
    assert loss.item() == 0 and not bool(hidden.grad.any())


def test_liger_computes_in_the_precision_of_the_autocast(liger):
    head, hidden = nn.Linear(6, 11, bias=False), torch.randn(1, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        token_loss(hidden, torch.tensor([[0, 1, 2, 3, 4]]), head, way="liger")
    assert liger == [((11, 6), (4, 6), torch.bfloat16, torch.bfloat16)]


def test_the_way_is_chosen_by_what_there_is(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_loss("auto", cuda=True, sharded=False)[0] == "chunked"
    assert choose_loss("auto", cuda=True, sharded=True)[0] == "single"
    assert choose_loss("off", cuda=True, sharded=True)[0] == "whole"
    with pytest.raises(UserError, match="pip install liger-kernel"):
        choose_loss("liger", cuda=True, sharded=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert choose_loss("auto", cuda=True, sharded=False)[0] == "liger"
    assert choose_loss("auto", cuda=False, sharded=False)[0] == "chunked"
    assert choose_loss("auto", cuda=True, sharded=False, plain_head=False)[0] == "chunked"
    with pytest.raises(UserError, match="needs a CUDA device"):
        choose_loss("liger", cuda=False, sharded=False)
    with pytest.raises(UserError, match="sharded weights"):
        choose_loss("liger", cuda=True, sharded=True)
