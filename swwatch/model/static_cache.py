"""Keys and values in memory that never moves: what a CUDA graph needs, and what needs no copying as a session grows.

A `SlotStore` is allocated once and has a seat for each session; a `StaticCache` is the session in one seat and does
what `StreamCache` does. A token takes the next free slot of its seat, watched or said, so that the first n slots
always hold all n tokens. Who may see a slot is told by its columns (stream, order, step), which lie beside it on the
device: the mask of a forward is made there from the one rule in visibility.py. An empty slot belongs to no stream.
"""

import gc
import weakref

import torch
from transformers.cache_utils import Cache

from swwatch.errors import UserError
from swwatch.model.cache import Mark, check_received
from swwatch.rules.chosen import chosen
from swwatch.rules.families import head_size
from swwatch.rules.layout import Layout
from swwatch.rules.visibility import SAID, WATCHED, can_see

NOBODY = 3  # the stream of an empty slot: none of visibility's, so the rule lets nobody see it
ALIGNMENT = 64  # lengths that are read are multiples of it: attention kernels want aligned masks


class CacheFull(UserError):
    """A session has more tokens than its seat can take."""


class SlotStore:
    """The slots of all seats, in every layer.

    Attributes:
        keys, values: one tensor (seats, N, slots, D) a layer. The last slot of a seat is scratch: written, never read.
        columns: (3, seats, slots) int64, stream, order and step of the token in a slot.
        length: slots of a seat that may be read.
    """

    def __init__(self, config, max_watched: int, max_said: int, seats: int, *, dtype: torch.dtype, device):
        """Args: the text model's config, and how many tokens of each stream a session may have."""
        if max_watched < 1 or max_said < 1 or seats < 1:
            raise UserError(f"max_watched, max_said and seats must be at least 1: {max_watched}, {max_said}, {seats}")
        self.limits = {WATCHED: max_watched, SAID: max_said}
        self.length = -(-(max_watched + max_said) // ALIGNMENT) * ALIGNMENT
        heads = config.num_key_value_heads
        shape = (seats, heads, self.length + 1, head_size(config))
        # zeros, not anything: a masked slot counts nothing only as long as it holds numbers
        self.keys, self.values = (
            [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)] for _ in range(2)
        )
        self.columns = torch.zeros((3, seats, self.length + 1), dtype=torch.int64, device=device)
        self.columns[0] = NOBODY
        self.heads, self.slots, self.device = heads, self.length + 1, self.columns.device
        self._free = list(range(seats))
        self.num_seats = seats

    def seat(self, owner) -> int:
        """An empty seat for `owner`, given back when that object is gone.

        Raises:
            UserError: all are taken.
        """
        if not self._free:
            gc.collect()  # a session that is gone may still wait for the collector
        if not self._free:
            raise UserError(f"all {self.num_seats} seats are taken: end a session first, or make it more seats")
        seat = min(self._free)  # a forward of several sessions goes over all seats up to the highest
        self._free.remove(seat)
        weakref.finalize(owner, self._free.append, seat)
        self.clear(seat, 0)
        return seat

    def clear(self, seat: int, length: int) -> None:
        """Empty a seat beyond its first `length` slots."""
        self.columns[0, seat, length:] = NOBODY
        for part in (*self.keys, *self.values):
            part[seat, :, length:] = 0

    def cell(self, seat: int, slot: int) -> int:
        """Index of a slot where the columns' (seats, slots) are one axis."""
        return seat * self.slots + slot

    def entry(self, seat: int, slot: int) -> int:
        """Index of a slot's first head where a layer's (seats, N, slots) are one axis."""
        return seat * self.heads * self.slots + slot


class StaticCache(Cache):
    """One session's seat: a model.protocols.SessionCache. A fast model writes to its slots itself.

    Attributes:
        length: slots in use.
        num_fed: tokens ever placed or received.
    """

    moves = False

    def __init__(self, store: SlotStore):
        super().__init__(layers=[])
        self.store, self.seat = store, store.seat(self)
        self.length = self.num_fed = self.evictions = 0
        self.counts = {WATCHED: 0, SAID: 0}
        self._runs: list[Layout] = []

    def place(self, rows: Layout) -> int:
        """Take slots for new tokens, which the caller then fills; returns the first of them.

        Raises:
            CacheFull: more tokens than this session may have. Nothing has changed then.
        """
        said = int(rows.stream.sum()) if len(rows) else 0
        counts = {WATCHED: self.counts[WATCHED] + len(rows) - said, SAID: self.counts[SAID] + said}
        for stream, name in ((WATCHED, "max_watched"), (SAID, "max_said")):
            if counts[stream] > self.store.limits[stream]:
                raise CacheFull(
                    f"this session needs room for {counts[stream]} tokens and has {self.store.limits[stream]}: "
                    f"raise {name}, or end it earlier"
                )
        first, self.counts = self.length, counts
        self.length += len(rows)
        self.num_fed += len(rows)
        self._runs.append(rows)
        return first

    @property
    def rows(self) -> Layout | None:
        """All tokens in the order of their slots; None where there are none."""
        if len(self._runs) > 1:
            self._runs = [Layout.cat(self._runs)]
        return self._runs[0] if self._runs else None

    @property
    def tokens(self) -> dict[int, Layout]:
        """stream -> Layout of its tokens, in the order they came."""
        rows = self.rows
        streams = () if rows is None else (WATCHED, SAID)
        return {stream: rows[rows.stream == stream] for stream in streams if self.counts[stream]}

    def admit(self, rows: Layout) -> torch.Tensor:
        """Announce the rows of the next forward, which must follow. For a model that is not a fast one.

        Returns:
            (1, 1, Q, K) bool mask over the keys that this forward will read, the new ones included.
        """
        first = self.place(rows)
        device, seat = self.store.device, self.seat
        self._incoming = slice(first, self.length)
        columns = self.store.columns[:, seat, : self.length]
        columns[:, first:] = torch.stack([rows.stream, rows.order, rows.step]).to(device, non_blocking=True)
        asks = (column.to(device, non_blocking=True)[:, None] for column in (rows.stream, rows.order, rows.sees))
        return can_see(*asks, *columns[:, None])[None, None]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args, **kwargs):
        """Write the rows announced by `admit` into their slots; return all slots in use, (1, N, K, D) each."""
        read = []
        for part, new in ((self.store.keys, key_states), (self.store.values, value_states)):
            part[layer_idx][self.seat, :, self._incoming] = new[0]
            read.append(part[layer_idx][self.seat : self.seat + 1, :, : self.length])
        return tuple(read)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def slots_of(self, stream: int) -> torch.Tensor:
        """(K,) which slots hold the tokens of a stream."""
        rows = self.rows
        return torch.empty(0, dtype=torch.int64) if rows is None else (rows.stream == stream).nonzero()[:, 0]

    def keep(self, stream: int, index: torch.Tensor) -> None:
        """Evict all tokens of a stream but those of `index` (K',), ascending. Positions stay as they were."""
        if bool((index.diff() <= 0).any()):
            raise ValueError("tokens are kept in their order: the index must ascend")
        rows = self.rows
        stays = rows.stream != stream
        stays[self.slots_of(stream)[index]] = True
        indices = chosen(stays, self.store.device)
        for part in (self.store.columns, *self.store.keys, *self.store.values):
            seat = part[:, self.seat] if part is self.store.columns else part[self.seat].movedim(1, -1)
            seat[..., : len(indices)] = seat[..., indices]  # the right side is a copy
        self._runs, self.length, self.evictions = [rows[stays]], len(indices), self.evictions + 1
        self.counts = {**self.counts, stream: len(index)}
        self.store.clear(self.seat, self.length)

    def export(self, num_from: int = 0) -> tuple[Layout, torch.Tensor]:
        """As `StreamCache.export`: watched tokens and their keys and values (layers, 2, 1, N, Q, D), a copy."""
        if not self.counts[WATCHED]:
            raise ValueError("nothing has been watched yet")
        slots = self.slots_of(WATCHED)[num_from:]
        index = chosen(slots, self.store.device)
        found = [torch.stack([part[self.seat].index_select(1, index) for part in pair]) for pair in self._pairs]
        return self.rows[slots], torch.stack(found)[:, :, None]

    def receive(self, rows: Layout, keys_values: torch.Tensor) -> None:
        """As `StreamCache.receive`.

        Raises:
            ValueError: rows that do not continue what was watched, or keys and values of another shape.
            CacheFull: they are too many.
        """
        check_received(self.tokens.get(WATCHED), rows, keys_values, len(self.store.keys))
        if not len(rows):
            return
        self.admit(rows)
        for layer, (keys, values) in enumerate(keys_values):
            self.update(keys, values, layer)

    def mark(self) -> Mark:
        """Remember how far the cache is filled."""
        counts = {stream: count for stream, count in self.counts.items() if count}
        return Mark(counts, self.num_fed, self.evictions)

    def restore(self, mark: Mark) -> None:
        """Undo every feed and receipt since `mark`, those included that failed in the middle of a forward.

        Raises:
            ValueError: tokens were evicted since.
        """
        if self.evictions != mark.evictions:
            raise ValueError("tokens were evicted since the mark: what is gone cannot be brought back")
        length = sum(mark.lengths.values())  # slots are taken in order of arrival
        self._runs = [self.rows[:length]] if length else []
        self.counts = {WATCHED: 0, SAID: 0, **mark.lengths}
        self.length, self.num_fed = length, mark.num_fed
        self.store.clear(self.seat, length)

    @property
    def _pairs(self) -> zip:
        """Keys and values, layer by layer."""
        return zip(self.store.keys, self.store.values, strict=True)

    def state(self) -> dict:
        """As `StreamCache.state`, in the same form, but a copy."""
        slots = {stream: self.slots_of(stream).to(self.store.device) for stream, count in self.counts.items() if count}
        pairs = [torch.stack([part[self.seat] for part in pair]) for pair in self._pairs]
        return {
            "tokens": {stream: dict(vars(tokens)) for stream, tokens in self.tokens.items()},
            "stores": [{stream: pair[:, None, :, index] for stream, index in slots.items()} for pair in pairs],
            "first_keys": [{} for _ in pairs],
            "first_positions": {},
            "num_fed": self.num_fed,
            "parking": {"blocks": [], "num_parked": 0},
        }

    def load_state(self, state: dict) -> None:
        """As `StreamCache.load_state`, into an empty seat."""
        if len(state["stores"]) != len(self.store.keys):
            raise ValueError(f"a state of {len(state['stores'])} layers does not fit {len(self.store.keys)}")
        for stream, columns in state["tokens"].items():
            self.admit(Layout(**columns))
            for layer, stores in enumerate(state["stores"]):
                self.update(*stores[stream].to(self.store.device), layer)
        self.num_fed = state["num_fed"]

    @property
    def nbytes(self) -> int:
        """Bytes of the seat, in use or not."""
        return sum(part[self.seat].nbytes for part in (*self.store.keys, *self.store.values))
