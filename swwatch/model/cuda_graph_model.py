"""The fast path: the forwards of streaming as CUDA graphs, over keys and values that never move.

A forward of a few rows is bound by reading the weights, if only the host can launch its hundreds of kernels in time.
So each is recorded once and replayed. A recording has fixed shapes: the number of new rows and the length that
attention reads are rounded up to buckets. Rows that only fill up are written to a scratch slot and read by nobody, and
slots beyond the end are seen by nobody, so buckets change nothing but the last digit.

On a CPU, or without graphs, the same code runs as it stands, which is how the tests compare it with the plain model.
The alternative, `torch.compile` in its mode "reduce-overhead", would compile for every bucket; it is not used.
Modules and weights are transformers'; the order in which they are called is here.
Legend: S seats in one forward, R rows, Q rows of the longest seat, L slots read, N key heads, G query heads for each
of them, D width, W as in streaming.
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from swwatch.errors import UserError
from swwatch.model.cuda_graphs import CudaGraphs
from swwatch.model.modeling import Watching
from swwatch.model.static_cache import SlotStore, StaticCache
from swwatch.model.vision_tower import VideoFeatures, VisionTower
from swwatch.policies.see.policy import TowerState
from swwatch.rules import variants
from swwatch.rules.layout import Layout
from swwatch.rules.visibility import can_see

# the one takes any mask and reads the same keys for several heads, the other is there for what it does not take
KERNELS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
MAX_ROWS = 1024  # a forward of more rows keeps the device busy by itself and is not recorded
# what the device is told of every row, beside its embedding
STREAM, ORDER, STEP, SEES, T, H, W, CELL, ENTRY, PLACE, WANTED = range(11)


def row_bucket(count: int) -> int:
    """Rows of a forward that takes `count`: exact up to 8, then four sizes to each doubling."""
    grain = 1 << max(0, (count - 1).bit_length() - 3)
    return -(-count // grain) * grain


def length_bucket(count: int, most: int, first: int = 128) -> int:
    """Slots that are read where `count` are in use: `first` times 1, 1.5, 2, 3, 4, 6, ..., and at last `most`."""
    size = first
    while size < count:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return min(size, most)


@dataclass(frozen=True)
class ForwardShape:
    """The shapes of a forward: the first `seats` seats, rows, rows of the longest seat, slots read, and whether any
    logits are wanted."""

    seats: int
    rows: int
    longest: int
    length: int
    wanted: bool


class CudaGraphModel:
    """A model.protocols.StreamingModel around another, over static memory. Same tokens, same methods.

    One thread and one CUDA stream at a time: its inputs and working memory are shared by all its forwards. A second
    thread takes `another()`, which shares the weights alone.
    """

    attention = "sdpa"
    static = True

    def __init__(
        self,
        model: Watching,
        max_watched: int,
        max_said: int,
        graphs: bool | None = None,
        *,
        seats: int = 1,
        first_length: int = 128,
    ):
        """
        Args:
            max_watched: tokens of prompt, video and questions that a session may have; one store's limit for all
                tokens where the variant has one sequence, together with `max_said`.
            max_said: tokens of the answer with its header.
            graphs: record and replay; by default where the device is CUDA.
            seats: sessions at once.
            first_length: the smallest length bucket, a power of two from 2 on.
        Raises:
            UserError: the model is spread over devices, or graphs were asked for without CUDA.
        """
        text = model.model.language_model
        devices = {p.device for p in model.parameters()}
        if len(devices) > 1:
            raise UserError(f"the fast path needs the whole model on one device, it is on {sorted(map(str, devices))}")
        if any(layer.self_attn.sliding_window for layer in text.layers):
            raise UserError("the fast path knows no sliding window: set use_sliding_window to false")
        self.model, self.device, self.dtype = model, model.device, model.dtype
        self.markup, self.settings, self.t_per_step = model.markup, model.settings, model.t_per_step
        self.config, self.generation_config, self.num_deep = model.config, model.generation_config, model.num_deep
        graphs = self.device.type == "cuda" if graphs is None else graphs
        if graphs and self.device.type != "cuda":
            raise UserError(f"CUDA graphs need a CUDA device, the model is on {self.device}")
        if first_length < 2 or first_length & (first_length - 1):
            raise UserError(f"first_length must be a power of two from 2 on, got {first_length}")
        self._options = {"max_watched": max_watched, "max_said": max_said, "seats": seats}
        self._options |= {"graphs": graphs, "first_length": first_length}
        self._graphs = CudaGraphs(self.device) if graphs else None
        self._text, self._head, self._first_length = text, model.lm_head, first_length
        one_stream = variants.get(model.settings.variant).streams == 1
        limits = (max_watched + max_said, 1) if one_stream else (max_watched, max_said)
        self.store = SlotStore(text.config, *limits, seats, dtype=self.dtype, device=self.device)
        self.tower, self.watches_aside = VisionTower(model, self.device, graphs), graphs
        # where recorded forwards find their rows
        width = text.config.hidden_size * (1 + model.num_deep)
        self._embeds = torch.zeros((MAX_ROWS, width), dtype=self.dtype, device=self.device)
        self._columns = torch.zeros((WANTED + 1) * MAX_ROWS, dtype=torch.int64, device=self.device)
        # on the host: row numbers, and rows that only fill up, whose place is the first seat's scratch slot
        self._ramp = torch.arange(self.store.length).repeat(4, 1)
        self._ramp[WANTED - CELL] = 0
        self._filling = torch.zeros((WANTED + 1, MAX_ROWS), dtype=torch.int64)
        self._filling[CELL], self._filling[ENTRY] = (
            self.store.cell(0, self.store.length),
            self.store.entry(0, self.store.length),
        )
        self._heads = torch.arange(self.store.heads, device=self.device) * self.store.slots
        self._kernels = partial(sdpa_kernel, KERNELS) if self.device.type == "cuda" else nullcontext

    def another(self) -> "CudaGraphModel":
        """The same weights with seats, inputs and graphs of its own, for another thread or stream."""
        return CudaGraphModel(self.model, **self._options)

    @property
    def plain(self) -> Watching:
        """The model that this one runs."""
        return self.model

    @property
    def num_graphs(self) -> int:
        """How many computations are recorded; it stands still once everything has been seen or warmed up."""
        return len(self._graphs or ()) + self.tower.num_graphs

    def new_cache(self, endless: bool = False, moves: bool = True) -> StaticCache:
        """An empty cache for one session; its seat is free again when the cache is gone.

        Raises:
            UserError: no seat is free, or one whose tokens may go was asked for.
        """
        if endless:
            raise UserError("the fast path cannot let go of what it holds: take the plain model for an endless stream")
        return StaticCache(self.store)

    @torch.no_grad()
    def embed(self, ids) -> torch.Tensor:
        """(Q,) token ids -> (Q, W) embeddings."""
        ids = torch.as_tensor(ids, dtype=torch.int64)
        return self.model.embed(ids.to(self.device, non_blocking=True))

    def watch_video(
        self, pixel_values: torch.Tensor, grid_thw: torch.Tensor, reuse: TowerState | None = None
    ) -> torch.Tensor:
        """As `Watching.watch_video`. What `reuse` runs is not recorded."""
        if reuse is not None:
            return self.model.watch_video(pixel_values, grid_thw, reuse)
        return self.tower.look(pixel_values, grid_thw).take()

    def begin_watching(
        self, pixel_values: torch.Tensor, grid_thw: torch.Tensor, reuse: TowerState | None = None
    ) -> VideoFeatures:
        """`watch_video` on a CUDA stream of its own, beside what this one does; `take()` gives the embeddings. What
        `reuse` runs has no stream of its own."""
        if reuse is not None:
            return self.model.begin_watching(pixel_values, grid_thw, reuse)
        return self.tower.look(pixel_values, grid_thw)

    def step(
        self, cache: StaticCache, rows: Layout, embeds: torch.Tensor, predicts: int | None = -1
    ) -> torch.Tensor | None:
        """As `Watching.step`."""
        return self.step_many([cache], [rows], [embeds], [predicts])[0]

    @torch.no_grad()
    def step_many(
        self,
        caches: Sequence[StaticCache],
        rows: Sequence[Layout],
        embeds: Sequence[torch.Tensor],
        predicts: Sequence[int | None] | None = None,
    ) -> list[torch.Tensor | None]:
        """As `Watching.step_many`."""
        counts, predicts = [len(new) for new in rows], predicts or [-1] * len(rows)
        begins = [cache.place(new) for cache, new in zip(caches, rows, strict=True)]
        seats = [cache.seat for cache in caches]
        wanted = any(index is not None for index in predicts)
        bucket = self._bucket(seats, counts, max(cache.length for cache in caches), wanted)
        columns = self._describe(bucket, rows, counts, begins, seats, predicts)
        logits = self._forward(bucket, columns, embeds[0] if len(embeds) == 1 else torch.cat(list(embeds)))
        return [None if index is None else logits[i] for i, index in enumerate(predicts)]

    @torch.no_grad()
    def warm_up(self, feeds: Iterable[Sequence[int]] = ((1,),), grids: Iterable[torch.Tensor] = ()) -> int:
        """Record beforehand, so that no session waits for it: each feed at every length, each grid.

        Args:
            feeds: numbers of rows that sessions feed together: (1,) a token alone, (23,) a token with a part of the
                next step's video, (1, 1, 1) a token each of three sessions, in the first seats.
            grids: (1, 3) patches before the merge, of steps to come.
        Returns:
            Number of computations recorded by now.
        """
        for counts, wanted in ((counts, wanted) for counts in feeds for wanted in (True, False)):
            length = 1
            while length <= self.store.length:
                bucket = self._bucket(list(range(len(counts))), list(counts), length, wanted)
                columns = self._filling[:, torch.zeros(bucket.rows, dtype=torch.int64)]
                columns[PLACE] = bucket.seats * bucket.longest
                width = self._embeds.shape[1]
                embeds = torch.zeros((bucket.rows, width), dtype=self.dtype, device=self.device)
                self._forward(bucket, columns, embeds)
                length = bucket.length + 1
        for grid in grids:
            self.tower.warm_up(grid)
        return self.num_graphs

    def _bucket(self, seats: list[int], counts: list[int], length: int, wanted: bool) -> ForwardShape:
        read = length_bucket(length, self.store.length, self._first_length)
        total = sum(counts)
        num_rows = row_bucket(total) if total <= MAX_ROWS else total
        if seats == [0]:
            return ForwardShape(1, num_rows, num_rows, read, wanted)
        # also for one session in another seat: to record all shapes for each of many seats takes minutes and memory
        span = min(1 << max(seats).bit_length(), self.store.num_seats)
        return ForwardShape(span, max(num_rows, span), row_bucket(max(counts)), read, wanted)

    def _describe(self, bucket, rows, counts, begins, seats, predicts) -> torch.Tensor:
        """(11, R) int64 on the CPU: what the device is told of every row."""
        parts, wanted, total = [], [], 0
        for new, count, begin, seat, index in zip(rows, counts, begins, seats, predicts, strict=True):
            wanted.append(total + (0 if index is None else index % count))
            total += count
            first = (
                self.store.cell(seat, begin),
                self.store.entry(seat, begin),
                seat * bucket.longest,
            )
            columns = torch.stack([new.stream, new.order, new.step, new.sees])
            numbered = self._ramp[:, :count] + torch.tensor([*first, wanted[-1]])[:, None]
            parts.append(torch.cat([columns, new.position_ids, numbered]))
        if total < bucket.rows:
            parts.append(self._filling[:, : bucket.rows - total])
        columns = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        if bucket.seats > 1:
            columns[PLACE, total:] = bucket.seats * bucket.longest
            columns[WANTED] = 0
            columns[WANTED, : len(wanted)] = torch.tensor(wanted)
        return columns

    def _forward(self, bucket: ForwardShape, columns: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        """Bring the rows to where recordings find them, and run. Returns what `_compute` does, the caller's own."""
        embeds = embeds.to(self.dtype)
        if bucket.rows > MAX_ROWS:
            columns = columns.to(self.device, non_blocking=True)
            return self._compute(bucket, columns, embeds)
        # pageable memory: the bytes are taken along before the call returns, and nothing waits for the device
        described = self._columns[: columns.numel()].view(columns.shape)
        described.copy_(columns, non_blocking=True)
        self._embeds[: len(embeds)].copy_(embeds)

        def compute() -> torch.Tensor:
            return self._compute(bucket, described, self._embeds[: bucket.rows])

        if self._graphs is None:
            return compute()
        return self._graphs.run(bucket, compute).clone()

    def _compute(self, bucket: ForwardShape, columns: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        """(11, R) columns and (R, W) embeddings on the device -> (S, V) float32 logits, no rows where none are wanted.
        Nothing here waits for the device."""
        # 1) list the new tokens, then ask the one rule who sees whom
        store, text = self.store, self._text
        hidden, *deep = embeds.split(text.config.hidden_size, dim=-1)
        span, length = slice(bucket.seats), bucket.length
        store.columns.view(3, -1).index_copy_(1, columns[CELL], columns[: STEP + 1])
        asks = (_by_seat(columns[i], columns[PLACE], bucket)[..., None] for i in (STREAM, ORDER, SEES))
        sees = can_see(*asks, *store.columns[:, span, None, :length])  # (S, Q, L)
        bias = torch.zeros(sees.shape, dtype=self.dtype, device=self.device).masked_fill_(~sees, -torch.inf)
        bias = bias[:, None].expand(-1, store.heads, -1, -1).flatten(0, 1)[:, None]  # (S N, 1, Q, L)
        # 2) rotation: the half that is exchanged takes its sign from the sine
        cos, sin = (x[0, :, None] for x in text.rotary_emb(hidden[None], columns[T : W + 1, None]))  # (R, 1, D/N)
        first, second = sin.chunk(2, dim=-1)
        rotation = cos, torch.cat([-first, second], dim=-1)
        entries = (columns[ENTRY, :, None] + self._heads).flatten()  # (R N)
        # 3) the layers
        for number, (layer, keys, values) in enumerate(zip(text.layers, store.keys, store.values, strict=True)):
            attention, x = layer.self_attn, _norm(layer.input_layernorm, hidden)
            q, k, v = attention.heads_of(x)
            keys.view(-1, k.shape[-1]).index_copy_(0, entries, _rotate(k, *rotation).flatten(0, 1))
            values.view(-1, v.shape[-1]).index_copy_(0, entries, v.flatten(0, 1))
            q = _by_seat(_rotate(q, *rotation), columns[PLACE], bucket)  # (S, Q, N G, D/N)
            q = q.unflatten(2, (store.heads, -1)).permute(0, 2, 3, 1, 4).flatten(0, 1)  # (S N, G, Q, D/N)
            k, v = (
                part[span, :, None, :length].flatten(0, 1).expand(-1, q.shape[1], -1, -1) for part in (keys, values)
            )
            with self._kernels():
                x = scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=attention.scaling)
            x = x.unflatten(0, (-1, store.heads)).permute(0, 3, 1, 2, 4).flatten(2)  # (S, Q, D)
            hidden = hidden + attention.o_proj(_in_rows(x, columns[PLACE], bucket))
            hidden = hidden + layer.mlp(_norm(layer.post_attention_layernorm, hidden))
            if number < len(deep):
                hidden = hidden + deep[number]  # zeros where there is no video
        if not bucket.wanted:
            return hidden[:0]
        wanted = hidden.index_select(0, columns[WANTED, : bucket.seats])
        return self._head(_norm(text.norm, wanted)).float()


def _norm(norm, x: torch.Tensor) -> torch.Tensor:
    """An RMSNorm of transformers' in one kernel."""
    return rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of (R, heads, D/N)."""
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


def _by_seat(rows: torch.Tensor, place: torch.Tensor, bucket: ForwardShape) -> torch.Tensor:
    """(R, ...) -> (S, Q, ...): every row at its place; rows that only fill up fall off the end."""
    if bucket.seats == 1:
        return rows[None]
    size = bucket.seats * bucket.longest
    placed = rows.new_zeros((size + 1, *rows.shape[1:])).index_copy_(0, place, rows)
    return placed[:size].unflatten(0, (bucket.seats, bucket.longest))


def _in_rows(placed: torch.Tensor, place: torch.Tensor, bucket: ForwardShape) -> torch.Tensor:
    """(S, Q, D) -> (R, D): the way back. Rows that only fill up get any other's."""
    if bucket.seats == 1:
        return placed[0]
    return placed.flatten(0, 1).index_select(0, place.clamp(max=bucket.seats * bucket.longest - 1))
