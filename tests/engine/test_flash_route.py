"""The flash-attention route without a GPU: what reaches that backend, and that a causal backend is exact there.

The stand-in computes what flash-attention computes without a mask: causal attention, aligned to the end
of the keys. The real kernel needs CUDA; that it agrees with sdpa on equal input is upstream's to hold.
"""

import pytest
import torch
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from swwatch.model import loading
from swwatch.model.settings import Settings
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import RandomK, WaitK
from swwatch.rules.variants import VARIANTS, Speaks, speaking
from tests.helpers.streams import Told, full_forward, play, random_stream


def causal(module, q, k, v, attention_mask, dropout=0.0, scaling=None, **kwargs):
    assert attention_mask is None or attention_mask.ndim == 2, "a 4-D mask would be ignored by the real backend"
    assert kwargs.get("position_ids") is None, "positions would be read as borders of packed samples"
    k, v = (repeat_kv(x, module.num_key_value_groups) for x in (k, v))
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


@pytest.mark.parametrize("schedule", [WaitK(3), RandomK(3, seed=2)], ids=str)
@pytest.mark.parametrize("variant", speaking(Speaks.OFFLINE, Speaks.ALTERNATING))
def test_streaming_under_a_causal_backend_equals_the_masked_forward(load_tiny, monkeypatch, variant, schedule):
    loaded = load_tiny(variant)
    stream = random_stream(loaded, [(2, 3)] * 4)
    theirs, _ = full_forward(loaded, stream, schedule)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flash_attention_2", causal)
    model = loaded.model
    for config in (model.config, model.model.language_model.config):
        monkeypatch.setattr(config, "_attn_implementation_internal", "flash_attention_2")
    session = Told(model, stream.prompt, schedule=schedule, choose=Greedy(max_new_tokens=len(stream.answer))).tell(
        stream.answer
    )
    play(session, stream)
    torch.testing.assert_close(torch.stack(session.seen_logits), theirs, atol=1e-4, rtol=0)


def test_it_is_chosen_only_where_it_is_exact_and_can_run(monkeypatch):
    monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda: True)

    def fits(variant: str, device: str, dtype: torch.dtype, **more) -> bool:
        return loading._flash_attention_fits(Settings.resolve(None, variant=variant, **more), device, dtype)

    assert fits("origin", "cuda", torch.bfloat16) and fits("livecc", "cuda", torch.bfloat16)
    assert not fits("origin", "cuda", torch.float32)
    assert not fits("group", "cuda", torch.bfloat16)
    assert not fits("origin", "cpu", torch.bfloat16)
    assert not fits("livecc", "cuda", torch.bfloat16, keep="livevlm"), "which hides some of the past"


@pytest.mark.skipif(loading.is_flash_attn_2_available(), reason="flash-attention is installed here")
def test_asking_for_it_where_it_is_not_installed_is_a_clear_error(tiny_checkpoint):
    from swwatch.errors import UserError

    with pytest.raises(UserError, match="leave attention to the default"):
        loading.load(tiny_checkpoint, variant="origin", device="cpu", attention="flash_attention_2")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("variant", VARIANTS)
def test_on_cuda_streaming_equals_training_in_float32(load_tiny, variant):
    """TF32 is off by default in torch; the tolerance is P1's own."""
    loaded = load_tiny(variant)
    stream = random_stream(loaded, [(2, 3)] * 6)
    theirs, _ = full_forward(loaded, stream, WaitK(3))
    loaded.model.to("cuda")
    try:
        session = Told(loaded.model, stream.prompt, choose=Greedy(max_new_tokens=len(stream.answer))).tell(
            stream.answer
        )
        play(session, stream)
        torch.testing.assert_close(torch.stack(session.seen_logits).cpu(), theirs, atol=1e-4, rtol=0)
    finally:
        loaded.model.to("cpu")
