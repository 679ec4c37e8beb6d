"""The KV cache: what was watched and what was said, in two stores, with the metadata of every token.

A text row reads both stores; a watched row reads the first alone. In causal variants everything is in the first store
and the cache is an ordinary one. Every cached token keeps its Layout columns, so that masks come from the one rule in
visibility.py, and so that eviction and re-indexing can be written as a selection of tokens (`keep`).
"""

import weakref

import torch
from transformers.cache_utils import Cache, DynamicLayer

from swwatch.layout import Layout
from swwatch.visibility import SAID, WATCHED


class _StoreLayer(DynamicLayer):
    """One decoder layer's keys and values (B, N, K, D): `watched` first, then `said`."""

    def __init__(self, cache: "StreamCache"):
        super().__init__()
        self.cache = weakref.proxy(cache)  # not a cycle: a closed session's memory is returned at once
        self.stores = {}

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Append the rows announced by `StreamCache.admit`; return what those rows may read."""
        new = torch.stack([key_states, value_states])  # (2, B, N, Q, D)
        for stream, index in self.cache.incoming.items():
            rows = new if index is None else new[..., index.to(new.device), :]
            old = self.stores.get(stream)
            self.stores[stream] = rows if old is None else torch.cat([old, rows], dim=-2)
        read = [self.stores[stream] for stream in self.cache.readable if stream in self.stores]
        return torch.cat(read, dim=-2).unbind(0) if len(read) > 1 else read[0].unbind(0)

    def get_seq_length(self) -> int:
        return sum(store.shape[-2] for store in self.stores.values())


class StreamCache(Cache):
    """Keys and values of one session over all layers.

    Attributes:
        tokens: stream -> Layout of the tokens in that store, in the order they are stored.
        num_fed: tokens ever admitted. A session that feeds every token once ends with the length of its layout.
    """

    def __init__(self, num_layers: int):
        super().__init__(layers=[_StoreLayer(self) for _ in range(num_layers)])
        self.tokens: dict[int, Layout] = {}
        self.num_fed = 0
        self.incoming: dict[int, torch.Tensor | None] = {}
        self.readable: tuple[int, ...] = ()

    def admit(self, rows: Layout) -> torch.Tensor:
        """Announce the rows of the next forward, which must follow.

        Returns:
            (1, 1, Q, K) bool mask over the keys that this forward will read, the new ones included.
        """
        said = rows.stream == SAID
        streams = {WATCHED: ~said, SAID: said}
        self.incoming = {
            stream: None if bool(chosen.all()) else chosen.nonzero()[:, 0]
            for stream, chosen in streams.items()
            if bool(chosen.any())
        }
        for stream in self.incoming:
            new = rows[streams[stream]]
            self.tokens[stream] = Layout.cat([self.tokens[stream], new]) if stream in self.tokens else new
        self.readable = (WATCHED, SAID) if bool(said.any()) else (WATCHED,)
        self.num_fed += len(rows)
        keys = Layout.cat([self.tokens[stream] for stream in self.readable if stream in self.tokens])
        return rows.visible(keys)[None, None]

    def keep(self, stream: int, index: torch.Tensor) -> None:
        """Evict all tokens of a store but those of `index` (K',), in every layer. Positions stay as they were."""
        self.tokens[stream] = self.tokens[stream][index]
        for layer in self.layers:
            store = layer.stores[stream]
            layer.stores[stream] = store[..., index.to(store.device), :]
