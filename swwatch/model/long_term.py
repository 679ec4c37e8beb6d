"""A memory within a cache that video is written into: each layer keeps tokens of its own, and a question reads pages.

Source of the rule: LiveVLM, arXiv 2505.15269 v2. What is kept stands where it stood. The tokens of the memory follow
one another in the store; the columns of the cache say of them what its first layer holds (StreamCache.keep), so that
what each layer holds is noted here.
Legend: M layers, N key heads, G query heads for each of them, K tokens, D width of a head, r probes, P pages.
"""

import torch

from swwatch.rules.chosen import chosen, sent
from swwatch.rules.layout import Kind, Layout
from swwatch.rules.visibility import WATCHED

PAGE = 16  # tokens


class LongTerm:
    """The memory of one cache.

    Attributes:
        cache: a StreamCache.
        columns: (M, 4, K) float64 of the tokens that each layer holds: t, h, w and order.
        num_read: tokens that the question reads which is being answered; all, where there is none.
        probes: of each layer that was fed, the queries (N G, r, D) of the newest tokens of video, as they are
            rotated, and (r,) their orders.
        queries: (M, N G, Q, D) of that question, without rotation.
    """

    def __init__(self, cache, newest: int):
        """
        Args:
            newest: r.
        """
        self.cache, self.newest = cache, newest
        self.columns = torch.zeros((len(cache.layers), 4, 0), dtype=torch.float64)
        self.probes: list[tuple[torch.Tensor, torch.Tensor]] = [(None, torch.zeros(0))] * len(cache.layers)
        self.queries: torch.Tensor | None = None
        self.num_read = 0
        self._shown, self._orders = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)

    # ---- what is noted of every forward -----------------------------------------------------------------------------

    def announce(self, rows: Layout) -> None:
        """The rows of the next forward, which will be noted layer by layer."""
        self._shown = rows.where(Kind.VIDEO).nonzero()[:, 0]
        self._orders = rows.order[self._shown]

    def note(self, number: int, query: torch.Tensor) -> None:
        """A layer's queries (1, N G, Q, D) of those rows. Of a forward that is done again the later ones count."""
        if not len(self._shown):
            return
        new, orders = query[0][:, chosen(self._shown, query.device)], self._orders
        old, before = self.probes[number]
        if old is not None:
            earlier = before < orders[0]
            new = torch.cat([old[:, chosen(earlier, old.device)], new], dim=1)
            orders = torch.cat([before[earlier], orders])
        self.probes[number] = new[:, -self.newest :], orders[-self.newest :]

    def attention(self) -> torch.Tensor:
        """(M, K) mean attention, over all heads, of the newest tokens of video to each token that was watched."""
        parts, when = [], self.cache.tokens[WATCHED].order
        for layer, (queries, orders) in zip(self.cache.layers, self.probes, strict=True):
            keys = layer.stores[WATCHED][0, 0]  # (N, K, D)
            grouped = queries.unflatten(0, (len(keys), -1)).flatten(1, 2)  # (N, G r, D)
            scores = (grouped @ keys.transpose(1, 2)).float() * keys.shape[-1] ** -0.5
            hidden = sent(when > orders[:, None], keys.device)  # (r, K)
            scores = scores.unflatten(1, (-1, len(orders))).masked_fill(hidden, -torch.inf)
            parts.append(scores.softmax(-1).mean((0, 1, 2)))
        return torch.stack(parts).cpu()

    # ---- writing and reading ----------------------------------------------------------------------------------------

    def write(self, keep, video: torch.Tensor) -> int:
        """Let each layer keep what the policy says of its memory and of further video.

        Args:
            keep: of policies.keep.
            video: (K,) which of what was watched: the memory, as it lies there, and then what comes to it.
        Returns:
            How many tokens of each layer are left. They are in the order of time, where the first of `video` was.
        """
        self.cache.show(WATCHED)
        tokens = self.cache.tokens[WATCHED]
        new = tokens[video[self.columns.shape[-1] :]]
        new = torch.cat([new.position_ids.double(), new.order[None].double()]).expand(len(self.columns), -1, -1)
        columns = torch.cat([self.columns, new], dim=-1)
        chosen = keep.write(self.attention()[:, video], columns[:, 3])
        chosen = chosen.gather(1, columns[:, 3].gather(1, chosen).argsort())
        self._hold(columns, chosen, video)
        return chosen.shape[1]

    def read(self, keep, first: int, column: str) -> None:
        """Let the question see in each layer those pages of the memory that the policy says, and hide the others.

        Args:
            first: where the memory begins in the store.
            column: see StreamCache.hide.
        """
        length = self.columns.shape[-1]
        pages, self.num_read = length // PAGE, length
        if self.queries is None or not pages:
            return
        keys = torch.stack([layer.stores[WATCHED][0, 0, :, first : first + length] for layer in self.cache.layers])
        means = self._plain(keys, self.columns[:, :3])[:, :, : pages * PAGE].unflatten(2, (-1, PAGE)).mean(3)
        chosen = keep.read(self._near(means))  # (M, k)
        rank = torch.full((len(chosen), pages), 2).scatter_(1, chosen, 0).repeat_interleave(PAGE, dim=1)
        rank = torch.nn.functional.pad(rank, (0, length - pages * PAGE), value=1)  # what fills no page is always read
        order = rank.argsort(dim=1, stable=True)
        place = torch.arange(first, first + length)
        self._hold(self.columns, order, place)
        self.num_read = length - (pages - chosen.shape[1]) * PAGE
        self.cache.hide(WATCHED, place[self.num_read :], column)

    def ask(self, queries: list[torch.Tensor], rows: Layout) -> None:
        """A question is answered from now on: M times (1, N G, Q, D), rotated as its Q rows stand."""
        self.queries = self._plain(torch.cat(queries), rows.position_ids.expand(len(queries), -1, -1))

    def _near(self, means: torch.Tensor) -> torch.Tensor:
        """(M, P) mean attention of the question to mean keys (M, N, P, D), over its tokens and all heads."""
        grouped = self.queries.unflatten(1, (means.shape[1], -1)).flatten(2, 3)  # (M, N, G Q, D)
        scores = (grouped @ means.transpose(2, 3)).float() * means.shape[-1] ** -0.5
        return scores.softmax(-1).mean((1, 2)).cpu()

    def _hold(self, columns: torch.Tensor, chosen: torch.Tensor, video: torch.Tensor) -> None:
        """Each layer keeps (M, K') of `video`, (K,) of what was watched, where the first of it was."""
        total = len(self.cache.tokens[WATCHED])
        self.cache.keep(WATCHED, in_place(total, video, video[chosen], int(video[0])))
        self.columns = columns.gather(2, chosen[:, None].expand(-1, 4, -1))

    def _plain(self, keys: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        """(M, N, K, D) without the rotation of (M, 3, K)."""
        pairs = zip(keys, where, strict=True)
        return torch.stack([self.cache.parking.turned(own, -positions) for own, positions in pairs])

    # ---- keeping ----------------------------------------------------------------------------------------------------

    def state(self) -> dict:
        """In dicts of tensors and numbers, for `load_state`."""
        return {
            "columns": self.columns,
            "num_read": self.num_read,
            "probes": list(self.probes),
            "queries": self.queries,
        }

    def load_state(self, state: dict) -> None:
        """Hold what another one held."""
        self.columns, self.num_read = state["columns"], state["num_read"]
        self.probes, self.queries = list(state["probes"]), state["queries"]


def in_place(total: int, video: torch.Tensor, chosen: torch.Tensor, at: int) -> torch.Tensor:
    """What each layer holds when video gives way to tokens of its own: (M, K''), see StreamCache.keep.

    Args:
        total: tokens that were watched; video: (K,) which of them it is.
        chosen: (M, K') which of them stay of it; at: which of it they stand in the place of.
    """
    others = torch.ones(total, dtype=torch.bool).index_fill(0, video, False).nonzero()[:, 0]
    before, after = (part.expand(len(chosen), -1) for part in (others[others < at], others[others > at]))
    return torch.cat([before, chosen, after], dim=1)
