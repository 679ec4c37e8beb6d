"""Where tokens stand once others are forgotten: closed up by the variant's own rule, as a stream of what is left."""

from bisect import bisect_left
from dataclasses import replace

import torch

from swwatch.rules.layout import Kind, Layout
from swwatch.rules.patch import Placed
from swwatch.rules.variants import Variant, VideoThenText
from swwatch.rules.visibility import WATCHED


def lay_out(
    variant: Variant, t_per_step: float, watched: Layout, texts: dict[int, Layout], placed: dict[int, Placed]
) -> tuple[Layout, dict[int, Layout], VideoThenText]:
    """Where tokens stand in a stream that begins with the oldest step among them.

    Args:
        watched: what is kept, in the order it came; texts: of the streams SAID and THOUGHT, likewise. Steps may be
            missing, at the beginning of the video and anywhere in texts.
        placed: where the patches of the kept steps stood; it is written anew. A patch may have lost any of its tokens,
            or all: its grid moves, and they with it.
    Returns:
        All with new positions, and the rule as it is when they have been laid out, ready for the step after them.
    """
    rule = variant.positions(t_per_step)
    steps = sorted(placed)
    there, here = watched.position_ids.clone(), {name: text.position_ids.clone() for name, text in texts.items()}

    def line(run: torch.Tensor, start: int) -> None:
        """Watched text, indices (n,), counts on from `start`."""
        there[:, run] = torch.arange(start, start + len(run))
        if len(run):
            rule.reach(WATCHED, start + len(run) - 1)

    # what came before the oldest step that is left, or with a step that is gone, counts to the next one
    ranks, spoken = _ranks(steps, watched.step), {name: _ranks(steps, text.step) for name, text in texts.items()}
    newest = max(steps[-1], int(watched.step.max()))
    last = bisect_left(steps, newest)
    for rank in range(max([last, *(int(of.max()) for of in spoken.values() if len(of))]) + 1):
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
            rule.reach(WATCHED, new.end)
            line(around[old.before :], rule.watched_end + 1)
        suffix = (arrived & watched.where(Kind.SUFFIX)).nonzero()[:, 0]
        if len(suffix):
            line(suffix, rule.suffix_start())
        for stream, of in spoken.items():
            words = (of == rank).nonzero()[:, 0]
            if len(words):
                start = rule.start_of(stream, rank)
                here[stream][:, words] = torch.arange(start, start + len(words))
                rule.reach(stream, start + len(words) - 1)
    rule.renumber(newest - last)
    moved_texts = {name: replace(text, position_ids=here[name]) for name, text in texts.items()}
    return replace(watched, position_ids=there), moved_texts, rule


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
