"""Memory of a piece of a model, by running it on tensors that have shapes and no values.

Beside model/upstream.py the one place that uses private parts of torch: its modes. Checked on torch 2.11.0.

Legend: L tokens of a row, R labelled tokens, P patches, D width of the LLM, W of the vision tower.
"""

import weakref
from collections.abc import Callable

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from swwatch.model.vision_attention import Chunks


class Live(TorchDispatchMode):
    """Counts the bytes of storages that operators make, while they live.

    What an operator needs inside (cuBLAS, attention kernels) is not seen.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def without_memory() -> FakeTensorMode:
    """Inside it tensors that are made have shapes and no values."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def peak_of(work: Callable[[], torch.Tensor]) -> int:
    """Bytes at most while `work` runs and its result's gradient is computed, where it has one."""
    with Live() as live:
        result = work()
        if result.requires_grad:
            result.backward(torch.empty_like(result))
    return live.peak


def kept_of(work: Callable[[], torch.Tensor]) -> int:
    """Bytes that are still there when `work` is done, its result among them: what its gradient needs."""
    with Live() as live:
        result = work()
        num_bytes = live.now
    del result
    return num_bytes


def without_values(module: nn.Module) -> nn.Module:
    """The module with new parameters and buffers of the same shapes; in fake mode they take no memory. In place."""
    for part in module.modules():
        for name, old in part.named_parameters(recurse=False):
            part.register_parameter(name, nn.Parameter(torch.empty(old.shape, dtype=old.dtype), old.requires_grad))
        for name, old in part.named_buffers(recurse=False):
            part.register_buffer(name, torch.empty(old.shape, dtype=old.dtype), persistent=False)
    return module


class Pieces:
    """What a training step runs again and again, each a function without arguments; make and run them in fake mode.

    Args:
        model: of any family on the meta device, with adapters or without; dtype: of hidden states between layers.
        autocast: compute in bfloat16 over weights of float32.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, autocast: bool):
        self.model, self.dtype, self.autocast = model, dtype, autocast
        lm = model.model.language_model
        for piece in (lm.layers[0], lm.rotary_emb, model.model.visual.blocks[0], model.lm_head):
            without_values(piece)

    def _inside(self):
        return torch.autocast("cpu", torch.bfloat16, enabled=self.autocast)

    def layer(self, tokens: int) -> Callable[[], torch.Tensor]:
        """A layer of the LLM over L tokens. Attention as one kernel, keys repeated for each query head."""
        lm = self.model.model.language_model
        hidden = torch.empty(1, tokens, lm.config.hidden_size, dtype=self.dtype, requires_grad=True)
        positions = torch.zeros(3, 1, tokens, dtype=torch.long)
        mask = torch.empty(1, 1, tokens, tokens, dtype=torch.bool)

        def run() -> torch.Tensor:
            with self._inside():
                turns = lm.rotary_emb(hidden, positions)
                output = lm.layers[0](
                    hidden, attention_mask=mask, position_ids=positions, position_embeddings=turns, use_cache=False
                )
            return output[0] if isinstance(output, tuple) else output

        return run

    def loss(self, labels: int) -> Callable[[], torch.Tensor]:
        """The loss over R labelled tokens, all at once."""
        head = self.model.lm_head
        hidden = torch.empty(1, labels + 1, self.model.config.text_config.hidden_size, dtype=self.dtype)
        hidden.requires_grad_(True)

        def run() -> torch.Tensor:
            with self._inside():
                logits = head(hidden[0, :labels]).float()
                return nn.functional.cross_entropy(logits, torch.zeros(labels, dtype=torch.long), reduction="sum")

        return run

    def block(self, patches: int, chunk: int, learns: bool) -> Callable[[], torch.Tensor]:
        """A block of the vision tower over P patches that attend in chunks."""
        visual = self.model.model.visual
        first = visual.blocks[0]
        width, heads = first.norm1.weight.shape[0], first.attn.num_heads
        hidden = torch.empty(patches, width, dtype=self.dtype, requires_grad=learns)
        turns = torch.empty(patches, width // heads)

        def run() -> torch.Tensor:
            with torch.set_grad_enabled(learns), self._inside():
                return first(hidden, cu_seqlens=Chunks(((chunk, None),)), position_embeddings=(turns, turns))

        return run
