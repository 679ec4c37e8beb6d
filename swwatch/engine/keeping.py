"""What a KEEP policy decided, carried out: in the cache, and among the words that are not fed yet."""

import math
import weakref
from collections.abc import Mapping
from dataclasses import replace

import torch

from swwatch.engine.requests import Feed, Run
from swwatch.model.long_term import LongTerm, in_place
from swwatch.model.parking import Block
from swwatch.model.protocols import ForgetfulCache, SessionCache
from swwatch.policies.memory.policy import Keep
from swwatch.rules.layout import Layout
from swwatch.rules.visibility import WATCHED

AT_ONCE = 4096  # tokens of a forward: the mask of a text of hours, read anew at a flush, would fill a memory

Pending = list[tuple[list[int], Layout]]


def new_cache(model, keep: Keep, endless: bool, moves: bool):
    """An empty cache of a model, see its `new_cache`, with the memory that the policy writes into, if it does so."""
    cache = model.new_cache(endless, moves)
    if keep.writes:
        cache.long_term = LongTerm(weakref.proxy(cache), keep.newest)
    return cache


class Weights:
    """How surprising the words of each step or turn were.

    Attributes:
        losses: number -> (2,) sum of their negative log probabilities, and how many there are.
    """

    def __init__(self):
        self.losses: dict[int, torch.Tensor] = {}

    def say(self, number: int, logits: torch.Tensor, token: int) -> None:
        """A token was chosen after logits (V,). The device is not waited for."""
        loss = -logits.float().log_softmax(-1)[token]
        new = torch.stack([loss, torch.ones_like(loss)])
        self.losses[number] = self.losses[number] + new if number in self.losses else new

    def perplexity(self, number: int) -> float | None:
        """None: nothing was said."""
        if number not in self.losses:
            return None
        total, count = self.losses[number].tolist()
        return math.exp(total / count)


def hold(
    cache: ForgetfulCache,
    pending: Pending,
    stays: Mapping[int, torch.Tensor],
    where: Mapping[int, torch.Tensor],
    stream: int,
) -> Pending:
    """Let go of all tokens but those that stay, and let these stand where they are to stand now.

    Args:
        cache: of the session.
        pending: said and not fed yet, which always stay.
        stays: of each stream that loses tokens, (K',) which are left of those in the cache and then those pending, in
            their new order.
        where: of each stream whose tokens move, (3, K) their positions, cached ones first and pending ones then.
        stream: that pending words belong to.
    Returns:
        What is pending, at its new positions.
    """
    for name, index in stays.items():
        cache.keep(name, index[index < len(cache.tokens[name])])
    for name, position_ids in where.items():
        place = len(cache.tokens[name]) if name in cache.tokens else 0
        if place:
            cache.reindex(name, position_ids[:, :place])
        if name == stream:
            pending = moved(pending, position_ids[:, place:])
    return pending


def moved(pending: Pending, position_ids: torch.Tensor) -> Pending:
    """What is pending, at other positions (3, P)."""
    parts = position_ids.split([len(rows) for _, rows in pending], dim=1) if pending else ()
    return [(ids, replace(rows, position_ids=at)) for (ids, rows), at in zip(pending, parts, strict=True)]


def feed(cache: SessionCache, rows: Layout, embeds: torch.Tensor, predicts: int | None = -1) -> Run:
    """Feed any number of rows (Q,) and their embeddings (Q, D); returns the logits after the last, or None where
    `predicts` is."""
    logits = None
    for begin in range(0, len(rows), AT_ONCE):
        part, last = slice(begin, begin + AT_ONCE), begin + AT_ONCE >= len(rows)
        logits = yield Feed(cache, rows[part], embeds[part], predicts if last else None)
    return logits


def thin(cache: ForgetfulCache, keep: Keep, video: torch.Tensor) -> int:
    """Let each layer keep what the policy says of a group of video, one behind the other where its last token was.

    Args:
        video: (K,) which tokens of what was watched the group is, rising.
    Returns:
        How many are left.
    """
    chosen = video[keep.thin(cache.keys(WATCHED, video)).cpu()]
    cache.keep(WATCHED, in_place(len(cache.tokens[WATCHED]), video, chosen, int(video[-1])))
    return chosen.shape[1]


def search(cache: ForgetfulCache, rows: Layout, embeds: torch.Tensor) -> Run:
    """How near a question is to what is parked: (layers, P) scores. It is read and forgotten again.

    Args:
        rows, embeds: of the question, (Q,) and (Q, D).
    """
    return cache.parking.scores((yield from queries_of(cache, rows, embeds)), rows)


def queries_of(cache, rows: Layout, embeds: torch.Tensor) -> Run:
    """The queries of a question (Q,), of each layer (1, heads, Q, D). It is read and forgotten again."""
    mark, cache.searching = cache.mark(), True
    yield Feed(cache, rows, embeds, None)
    cache.searching = False
    queries = [layer.query for layer in cache.layers]
    cache.restore(mark)
    return queries


def recall(cache: ForgetfulCache, keep: Keep, scores: torch.Tensor) -> list[Block]:
    """Bring back what the policy says, behind all that was watched; see Parking.recall."""
    if not cache.parking.alike():
        scores = scores.sum(0, keepdim=True)
    return cache.parking.recall(keep.recall(scores).expand(len(cache.layers), -1))
