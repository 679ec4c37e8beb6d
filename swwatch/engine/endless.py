"""Parallel variants on a stream without end: what is forgotten, and where the rest stands then.

Once a step is in, and before words are said about it, video older than the window goes, and of the answer all but its
first and its last tokens. What stays is laid out anew by the variant's own rule, as if the stream had begun with the
oldest step that is left: under GDPE and GIPE each axis is closed up by itself (GIPE from its constant), under OSPE the
recurrence of shared starts begins again. Prompt and questions always stay.

The moment is the same in every engine, so that all say the same: the next step, whether it rides in the words or comes
after them, sees what these words see.
"""

from bisect import bisect_left
from dataclasses import replace

import torch

from swwatch.engine.keeping import hold
from swwatch.rules.layout import Kind, Layout
from swwatch.rules.patch import Placed
from swwatch.rules.variants import Variant, VideoThenText
from swwatch.rules.visibility import SAID, WATCHED


def lay_out(
    variant: Variant, t_per_step: int, watched: Layout, said: Layout, placed: dict[int, Placed]
) -> tuple[Layout, Layout, VideoThenText]:
    """Where tokens stand in a stream that begins with the oldest step among them.

    Args:
        watched, said: what is kept, in the order it came. Steps may be missing, at the beginning of the video and
            anywhere in the answer.
        placed: where the patches of the kept steps stood; it is written anew. A patch may have lost any of its tokens,
            or all: its grid moves, and they with it.
    Returns:
        Both with new positions, and the rule as it is when they have been laid out, ready for the step after them.
    """
    rule = variant.positions(t_per_step)
    steps = sorted(placed)
    there, here = watched.position_ids.clone(), said.position_ids.clone()

    def line(run: torch.Tensor, start: int) -> None:
        """Watched text, indices (n,), counts on from `start`."""
        there[:, run] = torch.arange(start, start + len(run))
        if len(run):
            rule.watched_end = max(rule.watched_end, start + len(run) - 1)

    # what came before the oldest step that is left, or with a step that is gone, counts to the next one
    ranks, spoken = (_ranks(steps, tokens.step) for tokens in (watched, said))
    newest = max(steps[-1], int(watched.step.max()))
    last = bisect_left(steps, newest)
    for rank in range(max(last, int(spoken.max()) if len(said) else 0) + 1):
        arrived = ranks == rank
        for run in _runs(watched, arrived & watched.where(Kind.PROMPT)):
            line(run, rule.question_start(rank))
            rule.begin_grid(rank)
        if rank < len(steps):
            old, around = placed[steps[rank]], (arrived & watched.where(Kind.AROUND)).nonzero()[:, 0]
            start = rule.patch_start(rank)
            if old.before:
                line(around[: old.before], rule.announced_start(rank))
                start = (rule.watched_end + 1,) * 3
            new = placed[steps[rank]] = old._replace(start=start)
            there[:, arrived & watched.where(Kind.VIDEO)] += torch.tensor([new.start]).T - torch.tensor([old.start]).T
            rule.watched_end = max(rule.watched_end, new.end)
            line(around[old.before :], rule.watched_end + 1)
        suffix = (arrived & watched.where(Kind.SUFFIX)).nonzero()[:, 0]
        if len(suffix):
            line(suffix, rule.suffix_start())
        words = (spoken == rank).nonzero()[:, 0]
        if len(words):
            start = rule.text_start(rank)
            here[:, words] = torch.arange(start, start + len(words))
            rule.said_end = max(rule.said_end, start + len(words) - 1)
    rule.renumber(newest - last)
    return replace(watched, position_ids=there), replace(said, position_ids=here), rule


def _ranks(steps: list[int], of: torch.Tensor) -> torch.Tensor:
    """Which of the kept steps, counted from 0, tokens belong to: their own, else the next one that is kept."""
    return torch.searchsorted(torch.tensor(steps), of)


def _runs(tokens: Layout, chosen: torch.Tensor) -> list[torch.Tensor]:
    """Indices of chosen tokens, question by question; neighbours that came at different steps are two."""
    index = chosen.nonzero()[:, 0]
    if not len(index):
        return []
    borders = (tokens.step[index].diff() != 0) | (tokens.order[index].diff() != 1)
    return list(index.tensor_split((borders.nonzero()[:, 0] + 1).tolist()))


class Forgetting:
    """What a session with a window does when a step is in. One for each session.

    Attributes:
        said_ids: ids of the said tokens that are kept, fed or not, in order; the repetition penalty counts them.
    """

    def __init__(self, session):
        self.window, self.session = session.keep, session
        self.said_ids: list[int] = []

    def say(self, ids: list[int]) -> None:
        """Note what is said."""
        self.said_ids += list(ids)

    def forget(self) -> bool:
        """Let go of what the window does not hold, and close up the rest. Returns whether anything went."""
        session, cache = self.session, self.session.cache
        watched, pending = cache.tokens[WATCHED], [rows for _, rows in session.pending]
        fed = cache.tokens.get(SAID)
        said = Layout.cat([part for part in (fed, *pending) if part is not None]) if fed or pending else watched[:0]
        placed, words = session.cursor.placed, self.window.said(~said.where(Kind.HEADER))
        oldest, stays = max(placed) - self.window.vision_s + 1, {}
        gone = [step for step in placed if step < oldest]
        if gone:
            shown = watched.where(Kind.VIDEO) | watched.where(Kind.AROUND)
            stays[WATCHED] = (~shown | (watched.step >= oldest)).nonzero()[:, 0]
            watched = watched[stays[WATCHED]]
        if words is not None:
            stays[SAID] = words
            said, self.said_ids = said[words], [self.said_ids[i] for i in words.tolist()]
        if not stays:
            return False
        for step in gone:
            del placed[step]
        variant, t_per_step = session.variant, session.model.t_per_step
        watched, said, session.cursor.rule = lay_out(variant, t_per_step, watched, said, placed)
        where = {WATCHED: watched.position_ids, SAID: said.position_ids}
        session.pending = hold(cache, session.pending, stays, where, SAID)
        return True
