"""Tokens chosen where the logits are: penalty, suppressed stops, threshold, and the likeliest or a drawn one.

What is in view is a flag for each id of the vocabulary, so that the price of the penalty does not grow with
the answer.
Scores are those of transformers' own processors, in the order of its `generate`, bit for bit. On a CPU nothing is
sorted and nothing is computed for words that it does not concern.
Legend: V size of the vocabulary.
"""

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from swwatch.errors import UserError
from swwatch.policies.choose import Choosing
from swwatch.rules.chosen import chosen

LIKELIEST = 1000  # words among which the border of top-p is looked for first
ROUNDING = 1e-5  # of a sum of chances over a whole vocabulary in float32: far more than it can be off


class Chooser:
    """Chooses the tokens of one session.

    Attributes:
        choose: the policy. Another one may take its place between two tokens.
        seen: (V,) bool, the ids in view, which the penalty counts.
        num_chosen: since `begin_turn`.
        generator: its own, so that no other session changes what it says.
    """

    def __init__(
        self,
        choose: Choosing,
        vocab_size: int,
        device: torch.device | str,
        *,
        stops: Collection[int] = (),
        ellipsis: int | None = None,
    ):
        """
        Args:
            choose: settled, see `Choosing.settled`.
            vocab_size: length of the logits.
            stops: ids that must not be chosen while the answer may not end.
            ellipsis: the id that `choose.threshold` is about, in chat turns.
        Raises:
            UserError: a threshold where there is no such id.
        """
        if choose.threshold is not None and ellipsis is None:
            raise UserError(f'{choose}: a threshold is for " ..." in chat turns alone, leave it out')
        self.choose, self.stops, self.ellipsis = choose, tuple(sorted(stops)), ellipsis
        self.seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._stops = chosen(self.stops, device)
        self.num_chosen = 0
        self.generator = torch.Generator()
        if choose.draws:
            self.generator.manual_seed(choose.seed)

    def see(self, ids: Iterable[int]) -> None:
        """Count these ids as in view."""
        self.seen.index_fill_(0, chosen(list(ids), self.seen.device), True)

    def begin_anew(self, ids: Iterable[int]) -> None:
        """Count these ids as in view, and no others."""
        self.seen.zero_()
        self.see(ids)

    def begin_turn(self) -> None:
        """The threshold counts from here."""
        self.num_chosen = 0

    def pick(self, logits: torch.Tensor, may_stop: bool) -> int:
        """The id of the next token after (V,) logits, which stay as they are. It counts as in view from now on.

        The one moment of a token at which the host waits for the device.
        """
        return pick_many([self], [logits], [may_stop])[0]

    def noise(self, scores: torch.Tensor) -> torch.Tensor:
        """(V,) numbers by which chances are divided, so that the largest is torch.multinomial's draw, bit for bit.

        Args:
            scores: of the device and dtype that they are for. They are drawn on the host, alike for every device, and
                nothing waits for that.
        """
        drawn = torch.empty(scores.shape[-1], dtype=scores.dtype).exponential_(1, generator=self.generator)
        return drawn.to(scores.device, non_blocking=True)

    def state(self) -> dict:
        """What later tokens depend on, in tensors and numbers, beside the policy."""
        return {
            "seen": self.seen.nonzero()[:, 0].cpu(),
            "num_chosen": self.num_chosen,
            "generator": self.generator.get_state(),
        }

    def load_state(self, state: dict) -> None:
        """Go on from a `state`."""
        self.begin_anew(state["seen"].tolist())
        self.num_chosen = state["num_chosen"]
        self.generator.set_state(state["generator"].cpu())


def pick_many(choosers: Sequence[Chooser], logits: Sequence[torch.Tensor], ends: Sequence[bool]) -> list[int]:
    """What each of these (of different sessions) would `pick`; the host waits once for all, and is sent ids alone.

    Args:
        logits: (V,) each.
        ends: whether the answer may stop, each.
    """
    groups: dict[tuple, list[int]] = {}
    for i, (chooser, may_stop) in enumerate(zip(choosers, ends, strict=True)):
        groups.setdefault(_alike(chooser, may_stop), []).append(i)
    best: dict[int, torch.Tensor] = {}
    before = {chooser: chooser.generator.get_state() for chooser in choosers if chooser.choose.draws}
    try:
        for alike, members in groups.items():
            first = choosers[members[0]]
            seen = torch.stack([choosers[i].seen for i in members])
            scores = scores_of(first, torch.stack([logits[i] for i in members]), seen, alike[-1])
            if first.choose.draws:
                scores = scores.softmax(-1).div_(torch.stack([choosers[i].noise(scores) for i in members]))
            best |= zip(members, scores.argmax(-1, keepdim=True), strict=True)
        ids = torch.cat([best[i] for i in range(len(choosers))]).tolist()
    except Exception:  # whoever has to try again finds all as it was
        for chooser, state in before.items():
            chooser.generator.set_state(state)
        raise
    for i, chooser in enumerate(choosers):
        chooser.seen.index_fill_(0, best[i], True)
        chooser.num_chosen += 1
    return ids


def scores_of(chooser: Chooser, logits: torch.Tensor, seen: torch.Tensor, may_stop: bool) -> torch.Tensor:
    """(n, V) logits of sessions whose choosers are alike -> (n, V) scores; the logits stay as they are.

    Args:
        seen: (n, V) bool, what each has in view.
    """
    how, scores = chooser.choose, logits.clone()
    if how.penalty != 1:
        _punish(scores, seen, how.penalty)
    if not may_stop:
        scores.index_fill_(-1, chooser._stops, -torch.inf)
    if how.threshold is not None:
        least = how.threshold + how.threshold_step * chooser.num_chosen
        ellipsis = scores[:, chooser.ellipsis]
        low = scores.float().softmax(-1)[:, chooser.ellipsis] <= least
        scores[:, chooser.ellipsis] = torch.where(low, -torch.inf, ellipsis)
    for warp in _warpers(how.temperature, how.top_k, how.top_p) if how.draws else ():
        scores = warp(None, scores)
    return scores


def _punish(scores: torch.Tensor, seen: torch.Tensor, penalty: float) -> None:
    """Divide positive and multiply negative scores (n, V) of the ids in view (n, V), in place."""
    if scores.device.type == "cpu":
        index = seen.nonzero(as_tuple=True)
        picked = scores[index]
        scores[index] = torch.where(picked < 0, picked * penalty, picked / penalty)
    else:  # where an index would be waited for
        punished = torch.where(scores < 0, scores * penalty, scores / penalty)
        scores.copy_(torch.where(seen, punished, scores))


class TopP:
    """transformers' TopPLogitsWarper: the likeliest words until their chances add up to `top_p`, and no others.

    On a CPU the border is looked for among the likeliest thousand, in a hundredth of the time that sorting a whole
    vocabulary takes. Where it is not among them, or so near to a sum of chances, or between words so alike, that
    rounding or the order of sorting would decide, everything is sorted.
    """

    def __init__(self, top_p: float):
        self.top_p, self._sorting = top_p, TopPLogitsWarper(top_p)

    def __call__(self, ids: torch.Tensor | None, scores: torch.Tensor) -> torch.Tensor:
        """(n, V) scores -> the same, with -inf for all other words."""
        if scores.device.type != "cpu" or scores.shape[-1] <= LIKELIEST:
            return self._sorting(ids, scores)
        best = scores.topk(LIKELIEST).values
        chances = (best - scores.logsumexp(-1, keepdim=True)).double().exp()
        before = chances.cumsum(-1) - chances  # chances of all that are likelier
        num_kept = (before < self.top_p).sum(-1, keepdim=True).clamp(min=1)
        least = best.gather(-1, num_kept - 1)
        next_best = best.gather(-1, num_kept.clamp(max=LIKELIEST - 1))
        found = num_kept < LIKELIEST
        clear = (before - self.top_p).abs().amin(-1, keepdim=True) > ROUNDING
        if bool((found & clear & (next_best < least)).all()):
            return scores.masked_fill(scores < least, -torch.inf)
        return self._sorting(ids, scores)


@lru_cache
def _warpers(temperature: float, top_k: int, top_p: float) -> tuple:
    warpers = [TemperatureLogitsWarper(float(temperature))] if temperature != 1 else []
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopP(top_p)] if top_p < 1 else []
    return tuple(warpers)


def _alike(chooser: Chooser, may_stop: bool) -> tuple:
    """Choosers of one key have the same scores for the same logits and ids in view. The last part is `may_stop`."""
    how = chooser.choose
    drawn = (how.temperature, how.top_k, how.top_p) if how.draws else None
    least = None if how.threshold is None else (how.threshold, how.threshold_step, chooser.num_chosen)
    return how.penalty, drawn, least, chooser.ellipsis, chooser.stops, may_stop
