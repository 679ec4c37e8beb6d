"""Attention over a cache: upstream's numbers, without its copies."""

from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from swwatch.model.batched import grouped_sdpa


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(0, 200),
    st.integers(0, 99),
)
def test_grouped_attention_is_upstreams_to_the_bit(batch, heads, groups, rows, before, seed):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(batch, count, length, 16, generator=generator)
        for count, length in ((heads * groups, rows), (heads, before + rows), (heads, before + rows))
    )
    mask = torch.rand(batch, 1, rows, before + rows, generator=generator) < 0.7
    mask[..., 0] = True  # every row sees something
    module = SimpleNamespace(num_key_value_groups=groups, is_causal=True)
    for given_mask in (mask, mask[:1], torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)):
        theirs, _ = sdpa_attention_forward(module, query, key, value, given_mask, scaling=0.25)
        ours, _ = grouped_sdpa(module, query, key, value, given_mask, scaling=0.25)
        assert ours.shape == theirs.shape and ours.is_contiguous() and torch.equal(ours, theirs)


def test_a_word_copies_no_keys_for_its_heads():
    """What is made on the way is as large as the cache, and not as large as the cache for every head."""

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **kwargs or {})
            if isinstance(made, torch.Tensor) and not function.is_view:
                self.numel = max(self.numel, made.numel())
            return made

    keys, groups = torch.zeros(1, 2, 300, 16), 4
    query, mask = torch.zeros(1, 2 * groups, 1, 16), torch.ones(1, 1, 1, 300, dtype=torch.bool)
    with Largest() as largest:
        grouped_sdpa(None, query, keys, keys, mask, scaling=0.25)
    assert 0 < largest.numel <= keys.numel()
