"""What a KEEP policy decided, carried out: in the cache, and among the words that are not fed yet."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from swwatch.rules.layout import Layout

Pending = list[tuple[list[int], Layout]]


def hold(
    cache, pending: Pending, stays: Mapping[int, torch.Tensor], where: Mapping[int, torch.Tensor], stream: int
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
        if name != stream:
            continue
        for number, (ids, rows) in enumerate(pending):
            pending[number] = ids, replace(rows, position_ids=position_ids[:, place : place + len(rows)])
            place += len(rows)
    return pending
