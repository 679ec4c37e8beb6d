"""The KV cache: what was watched, said and thought, each in a store, with the metadata of every token.

A row reads the stores of visibility.SEES: a watched one the first alone. In causal variants everything is in the first
store and the cache is an ordinary one. Every cached token keeps its Layout columns, so that masks come from the one
rule in visibility.py, and so that eviction and re-indexing can be written as a selection of tokens (`keep`).

A stream without end evicts old tokens (`keep`) and numbers the rest anew (`reindex`). Keys are then rotated from where
they first stood, in one go, so that ten thousand re-numberings leave no more error than one.

What was watched depends on no text, so it may be computed elsewhere and brought here: `export` there, `receive` here.
A forward that failed half-way is undone with `mark` and `restore`.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from transformers.cache_utils import Cache, DynamicLayer

from swwatch.model.parking import Parking, turned
from swwatch.model.stores import Stores
from swwatch.rules.chosen import chosen, sent
from swwatch.rules.layout import Layout
from swwatch.rules.visibility import SEES, WATCHED

HIDDEN = 1 << 40  # behind every token that will ever come


@dataclass(frozen=True)
class Mark:
    """How far a cache was filled, so that what came after can be undone.

    Attributes:
        lengths: stream -> number of its tokens.
        num_fed: the cache's own count at that moment.
        evictions: how often tokens had been evicted. What is gone cannot be brought back.
    """

    lengths: dict[int, int]
    num_fed: int
    evictions: int


class _StoreLayer(DynamicLayer):
    """One decoder layer's keys and values (B, N, K, D): `watched` first, then `said`, then `thought`.

    Attributes:
        number: of the layer.
        stores: stream -> keys and values (2, B, N, K, D).
        first_keys: stream -> keys (B, N, K, D) as they were first rotated, in a cache that can be re-indexed.
        query: (B, N', Q, D) of the rows of the newest forward, where the cache is `searching`.
    """

    def __init__(self, cache: "StreamCache", number: int):
        super().__init__()
        self.number = number
        self.cache = weakref.proxy(cache)  # not a cycle: a closed session's memory is returned at once
        self.stores, self.first_keys, self.query = Stores(), Stores(), None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, query=None, *args, **kwargs):
        """Append the rows announced by `StreamCache.admit`; return what those rows may read."""
        if self.cache.searching:
            self.query = query
        if self.cache.long_term is not None:
            self.cache.long_term.note(self.number, query)
        new = torch.stack([key_states, value_states])  # (2, B, N, Q, D)
        for stream, index in self.cache.incoming.items():
            self.append(stream, new if index is None else new[..., chosen(index, new.device), :])
        return self.stores.read(self.cache.readable).unbind(0)

    def append(self, stream: int, new: torch.Tensor, first: torch.Tensor | None = None) -> None:
        """Add keys and values (2, B, N, Q, D) to a store. `first`: the keys as they were first rotated; None: so."""
        self.stores.append(stream, new)
        if self.cache.moves:
            self.first_keys.append(stream, new[0] if first is None else first)

    def keep(self, stream: int, index: torch.Tensor) -> None:
        """Hold the tokens of `index` (K',) in a store, in that order, and no others."""
        for stores in (self.stores, self.first_keys):
            if stream in stores:
                stores[stream] = stores[stream].index_select(-2, chosen(index, stores[stream].device))

    def rotate(self, stream: int, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Make the keys of a store anew from the first ones, turned on by cosines and sines (1, K, D)."""
        first = self.first_keys[stream]
        keys = turned(first, cos[:, None], sin[:, None])
        self.stores[stream] = torch.stack([keys, self.stores[stream][1]])

    def cut(self, stream: int, length: int) -> None:
        """Forget what a store holds beyond its first `length` tokens; it may hold fewer."""
        for stores in (self.stores, self.first_keys):
            if stream in stores and stores[stream].shape[-2] > length:
                # a view: this is called when there is no memory left
                stores[stream] = stores[stream][..., :length, :]

    def get_seq_length(self) -> int:
        return sum(store.shape[-2] for store in self.stores.values())


class StreamCache(Cache):
    """Keys and values of one session over all layers: a model.protocols.ForgetfulCache.

    Args:
        num_layers: of the LLM.
        rotary: the LLM's rotary embedding, of a cache that tokens leave; None: they stay.
        moves: it can be re-indexed then; its keys take twice the memory.
    Attributes:
        tokens: stream -> Layout of the tokens in that store, in the order they are stored.
        num_fed: tokens ever admitted or received. A session that feeds every token once ends with the length of its
            layout.
        searching: queries of the next forward are wanted.
        parking: what of it is in host memory; long_term: the memory that its video is written into, where it has one.
    """

    def __init__(self, num_layers: int, rotary: Callable | None = None, moves: bool = True):
        super().__init__(layers=[_StoreLayer(self, i) for i in range(num_layers)])
        self.rotary, self.moves = rotary, moves and rotary is not None
        self.parking, self.searching, self.long_term = Parking(weakref.proxy(self)), False, None
        self.tokens: dict[int, Layout] = {}
        self.first_positions: dict[int, torch.Tensor] = {}  # stream -> (3, K), where its keys were first rotated to
        self.num_fed = 0
        self.evictions = 0
        self.incoming: dict[int, torch.Tensor | None] = {}
        self.readable: tuple[int, ...] = ()

    def admit(self, rows: Layout) -> torch.Tensor:
        """Announce the rows of the next forward, which must follow.

        Returns:
            (1, 1, Q, K) bool mask over the keys that this forward will read, the new ones included.
        """
        if self.long_term is not None:
            self.long_term.announce(rows)
        self.incoming = {}
        for stream in SEES:
            index = (rows.stream == stream).nonzero()[:, 0]
            if len(index):
                alone = len(index) == len(rows)
                self.incoming[stream] = None if alone else index
                self._list(stream, rows if alone else rows[index])
        self.readable = tuple(key for key in SEES if any(key in SEES[stream] for stream in self.incoming))
        self.num_fed += len(rows)
        keys = [self.tokens[stream] for stream in self.readable if stream in self.tokens]
        return rows.visible(Layout.cat(keys) if len(keys) > 1 else keys[0])[None, None]

    def keep(self, stream: int, index: torch.Tensor) -> None:
        """Evict all tokens of a store but those of `index`, in every layer. Positions stay as they were.

        An index out of order also moves tokens, which attention does not notice: it goes by the columns of `tokens`.
        These are the same for all layers: where each layer keeps its own tokens, they say of the first one's where
        they stand, and of all together when they came at the latest.

        Args:
            index: (K',), or (layers, K') for each layer its own.
        Raises:
            ValueError: each layer its own, of a cache that can be re-indexed.
        """
        self.evictions += 1
        tokens = self.tokens[stream][index]
        if index.ndim == 2:
            if self.moves:
                raise ValueError("a cache whose layers hold different tokens cannot be re-indexed")
            first = Layout(*(column[..., 0, :] for column in vars(tokens).values()))
            tokens = replace(first, step=tokens.step.amax(0), order=tokens.order.amax(0))
        self.tokens[stream] = tokens
        if stream in self.first_positions:
            self.first_positions[stream] = self.first_positions[stream][:, index]
        for layer, own in zip(self.layers, index.expand(len(self.layers), -1), strict=True):
            layer.keep(stream, own)

    def hide(self, stream: int, index: torch.Tensor, column: str = "order") -> None:
        """From now on no row of the same stream sees the tokens of `index` (K',); what is said goes on to. With the
        column `step` it is the other way round."""
        hidden = getattr(self.tokens[stream], column).index_add(0, index, torch.full_like(index, HIDDEN))
        self.tokens[stream] = replace(self.tokens[stream], **{column: hidden})

    def show(self, stream: int) -> None:
        """Nothing is hidden any more."""
        tokens = self.tokens[stream]
        self.tokens[stream] = replace(tokens, order=tokens.order % HIDDEN, step=tokens.step % HIDDEN)

    def keys(self, stream: int, index: torch.Tensor) -> torch.Tensor:
        """(layers, K', N x D) keys of the tokens of `index` (K',), as they are rotated now."""
        stores = [layer.stores[stream][0, 0] for layer in self.layers]
        index = chosen(index, stores[0].device)
        return torch.stack([keys[:, index].transpose(0, 1).flatten(1) for keys in stores])

    def reindex(self, stream: int, position_ids: torch.Tensor) -> None:
        """Let the tokens of a store stand elsewhere.

        Args:
            position_ids: (3, K) of all its tokens.
        Raises:
            ValueError: this cache was not made to move, or of another number of tokens.
        """
        tokens = self.tokens[stream]
        if not self.moves:
            raise ValueError("only a cache made with `rotary`, and to move, can be re-indexed")
        if position_ids.shape != tokens.position_ids.shape:
            raise ValueError(f"{len(tokens)} tokens need positions (3, {len(tokens)}), not {position_ids.shape}")
        self.evictions += 1
        self.tokens[stream] = replace(tokens, position_ids=position_ids)
        device = self.layers[0].first_keys[stream].device
        turn = sent(position_ids - self.first_positions[stream], device)
        cos, sin = self.rotary(torch.zeros(1, device=device), turn[:, None])  # (1, K, D), float32
        for layer in self.layers:
            layer.rotate(stream, cos, sin)

    def export(self, num_from: int = 0) -> tuple[Layout, torch.Tensor]:
        """What was watched, from the token `num_from` of that store on, for another cache to `receive`.

        Returns:
            The Layout of those Q tokens, and their keys and values (layers, 2, B, N, Q, D): a copy, which nothing
            that happens to this cache will change. Q may be 0.
        Raises:
            ValueError: nothing was ever watched.
        """
        if WATCHED not in self.tokens:
            raise ValueError("nothing has been watched yet")
        stores = [layer.stores[WATCHED][..., num_from:, :] for layer in self.layers]
        return self.tokens[WATCHED][num_from:], torch.stack(stores)

    def receive(self, rows: Layout, keys_values: torch.Tensor) -> None:
        """Take in watched tokens that another cache computed, as if they had been fed here.

        Args:
            rows: Q tokens of the stream WATCHED that continue the store.
            keys_values: (layers, 2, B, N, Q, D) as `export` returned them, on this cache's device.
        Raises:
            ValueError: rows that do not continue the store, or keys and values of another shape.
        """
        check_received(self.tokens.get(WATCHED), rows, keys_values, len(self.layers))
        if not len(rows):
            return
        for layer, new in zip(self.layers, keys_values, strict=True):
            layer.append(WATCHED, new)
        self._list(WATCHED, rows)
        self.num_fed += len(rows)

    def mark(self) -> Mark:
        """Remember how far the cache is filled."""
        return Mark({stream: len(tokens) for stream, tokens in self.tokens.items()}, self.num_fed, self.evictions)

    def restore(self, mark: Mark) -> None:
        """Undo every feed and receipt since `mark`, those included that failed in the middle of a forward.

        Raises:
            ValueError: tokens were evicted since.
        """
        if self.evictions != mark.evictions:
            raise ValueError("tokens were evicted since the mark: what is gone cannot be brought back")
        self.tokens = {stream: self.tokens[stream][:length] for stream, length in mark.lengths.items()}
        self.first_positions = {
            stream: first[:, : mark.lengths[stream]]
            for stream, first in self.first_positions.items()
            if stream in mark.lengths
        }
        for layer in self.layers:
            for stores in (layer.stores, layer.first_keys):
                for stream in stores.keys() - mark.lengths.keys():
                    del stores[stream]
            for stream, length in mark.lengths.items():
                layer.cut(stream, length)
        self.incoming, self.readable, self.num_fed = {}, (), mark.num_fed

    def state(self) -> dict:
        """All that the cache holds, in dicts of tensors and numbers, for `load_state`: a layer's stores, and of each
        stream the columns of its tokens. Nothing is copied, and nothing that happens to this cache changes it."""
        return {
            "tokens": {stream: dict(vars(tokens)) for stream, tokens in self.tokens.items()},
            "stores": [layer.stores.snapshot() for layer in self.layers],
            "first_keys": [layer.first_keys.snapshot() for layer in self.layers],
            "first_positions": dict(self.first_positions),
            "num_fed": self.num_fed,
            "parking": self.parking.state(),
            "long_term": self.long_term.state() if self.long_term is not None else None,
        }

    def load_state(self, state: dict) -> None:
        """Hold what another cache held.

        Raises:
            ValueError: that one had another number of layers, or could not be re-indexed as this one can.
        """
        if len(state["stores"]) != len(self.layers):
            raise ValueError(f"a state of {len(state['stores'])} layers does not fit {len(self.layers)}")
        if self.moves and state["tokens"] and not state["first_positions"]:
            raise ValueError("the state is of a cache that cannot be re-indexed, and this one can")
        self.tokens = {stream: Layout(**columns) for stream, columns in state["tokens"].items()}
        self.first_positions, self.num_fed = dict(state["first_positions"]), state["num_fed"]
        self.parking.load_state(state["parking"])
        self.evictions += 1  # no older mark is of this content
        if self.long_term is not None:
            self.long_term.load_state(state["long_term"])
        for layer, stores, first_keys in zip(self.layers, state["stores"], state["first_keys"], strict=True):
            layer.stores, layer.first_keys = Stores(stores), Stores(first_keys)

    @property
    def nbytes(self) -> int:
        """Bytes that the keys and values take; those that are parked on the host count there."""
        parts = [part for layer in self.layers for part in (*layer.stores.values(), *layer.first_keys.values())]
        return sum(part.nbytes for part in parts)

    @property
    def held_nbytes(self) -> int:
        """With the room for more of them."""
        return sum(sum((layer.stores.held | layer.first_keys.held).values()) for layer in self.layers)

    def _list(self, stream: int, new: Layout, first: torch.Tensor | None = None) -> None:
        if self.moves:
            old, first = self.first_positions.get(stream), new.position_ids if first is None else first
            self.first_positions[stream] = first if old is None else torch.cat([old, first], dim=1)
        self.tokens[stream] = Layout.cat([self.tokens[stream], new] if stream in self.tokens else [new])  # its own


def check_received(known: Layout | None, rows: Layout, keys_values: torch.Tensor, num_layers: int) -> None:
    """See that watched tokens which another cache computed continue those that are `known`.

    Raises:
        ValueError: they do not, or their keys and values (layers, 2, B, N, Q, D) have another shape.
    """
    due = 0 if known is None else int(known.order[-1]) + 1
    if not bool((rows.stream == WATCHED).all()) or rows.order.tolist() != list(range(due, due + len(rows))):
        raise ValueError(f"the next watched token is number {due}, got {rows.order.tolist()[:3]}")
    if keys_values.shape[0] != num_layers or keys_values.shape[-2] != len(rows):
        raise ValueError(f"{len(rows)} tokens of {num_layers} layers do not fit {tuple(keys_values.shape)}")
