"""The next token, chosen where the logits are: repetition penalty, suppressed stops, argmax.

What was seen is a flag for each id of the vocabulary, so that the price of the penalty does not grow with the answer.
"""

from collections.abc import Collection, Iterable, Sequence

import torch


class Greedy:
    """Greedy choice under a repetition penalty, for one session.

    The scores are those of transformers' RepetitionPenaltyLogitsProcessor over the ids seen so far, bit for bit: a
    positive logit of a seen id is divided by the penalty, a negative one multiplied.
    """

    def __init__(self, vocab_size: int, penalty: float, stops: Collection[int], device: torch.device | str):
        """
        Args:
            vocab_size: length of the logits.
            penalty: 1 is off.
            stops: ids that must not be chosen while the answer may not end.
        """
        self.penalty, self.stops = penalty, tuple(sorted(stops))
        self.seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._stops = torch.tensor(self.stops, dtype=torch.int64, device=device)

    def see(self, ids: Iterable[int]) -> None:
        """Count these ids as seen."""
        index = torch.tensor(list(ids), dtype=torch.int64)
        # from pageable memory the copy takes its bytes along before it returns, and nothing waits for the device
        self.seen.index_fill_(0, index.to(self.seen.device, non_blocking=True), True)

    def begin_anew(self, ids: Iterable[int]) -> None:
        """Count these ids as seen, and no others."""
        self.seen.zero_()
        self.see(ids)

    def pick(self, logits: torch.Tensor, may_stop: bool) -> torch.Tensor:
        """(V,) logits -> (1,) int64, the chosen id, on the device: nothing waits. It counts as seen from now on."""
        chosen = self.scores(logits, self.seen, may_stop).argmax(-1, keepdim=True)
        self.seen.index_fill_(0, chosen, True)
        return chosen

    def choose(self, logits: torch.Tensor, may_stop: bool) -> int:
        """`pick`, and wait for the id: the one moment of a token at which the host waits for the device."""
        return int(self.pick(logits, may_stop))

    def scores(self, logits: torch.Tensor, seen: torch.Tensor, may_stop: bool) -> torch.Tensor:
        """(..., V) logits after the penalty at what was seen, and -inf at the stops unless the answer may end.

        The logits stay as they are.
        """
        if self.penalty != 1:
            punished = torch.where(logits < 0, logits * self.penalty, logits / self.penalty)
            logits = torch.where(seen, punished, logits)
        return logits if may_stop else logits.index_fill(-1, self._stops, -torch.inf)


def choose_many(greedies: Sequence[Greedy], logits: Sequence[torch.Tensor], ends: Sequence[bool]) -> list[int]:
    """What each of these (of different sessions) would `choose`; the host waits once for all.

    Args:
        logits: (V,) each.
        ends: whether the answer may stop, each.
    """
    alike: dict[tuple, list[int]] = {}
    for i, (greedy, may_stop) in enumerate(zip(greedies, ends, strict=True)):
        alike.setdefault((greedy.penalty, greedy.stops, may_stop), []).append(i)
    order, chosen = [i for group in alike.values() for i in group], []
    for (*_, may_stop), group in alike.items():
        seen = torch.stack([greedies[i].seen for i in group])
        scores = greedies[group[0]].scores(torch.stack([logits[i] for i in group]), seen, may_stop)
        chosen += scores.argmax(-1, keepdim=True)
    ids = dict(zip(order, torch.cat(chosen).tolist(), strict=True))
    for i, one in zip(order, chosen, strict=True):  # last, so that whoever has to try again finds all as it was
        greedies[i].seen.index_fill_(0, one, True)
    return [ids[i] for i in range(len(greedies))]
