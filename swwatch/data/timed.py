"""Captions with their times, as answers in a training sample: for policies of SPEAK that are learned.

A record has `captions`, a list of {"at_s": seconds, "text": what is told}, with rising times; an empty one is of a
video about which nothing is told. Each caption is an answer of its own. It begins at the first step whose frames come
at its time or later, or when the one before it is over, and is said k tokens a step.

    steps     0        1        2          3          4
    said      -        -        A red ci   rcle.<end> -
    decided   not yet  not yet  begin      (going on) not yet

Questions in mid-stream, in a record's `qa_stream`, need no such policy: each stands before the patch of the step in
which it is asked, at which its answer begins.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch

from swwatch.errors import UserError
from swwatch.rules.layout import Kind, Layout
from swwatch.rules.schedule import Planned


def captions_of(record: dict, field: str = "captions", instead: str = "train with wait-k") -> list[tuple[float, str]]:
    """(seconds, text) of each caption of a record, in the order of time.

    Args:
        field: "captions", or "thoughts": what comes up when, for notes (see policies.think).
        instead: what to do without them, for the message.
    Raises:
        UserError: it has no list of captions with rising times.
    """
    captions = record.get(field)
    if not isinstance(captions, list):
        raise UserError(
            f'the record has no {field} with their times: give it "{field}": [{{"at_s": 2.5, "text": "..."}}], or '
            f"{instead}"
        )
    found = []
    for caption in captions:
        at_s, text = (caption.get(name) for name in ("at_s", "text")) if isinstance(caption, dict) else (None, None)
        if not isinstance(at_s, int | float) or isinstance(at_s, bool) or not math.isfinite(at_s) or at_s < 0:
            raise UserError(
                f"one of the {field} is {caption!r}: its at_s must be seconds from the beginning of the video"
            )
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"one of the {field} is {caption!r}: its text must say something")
        if found and at_s < found[-1][0]:
            raise UserError(f"the {field} are not in the order of time: {at_s} s comes after {found[-1][0]} s")
        found.append((float(at_s), text))
    return found


def plan_of(times: Sequence[float], lengths: Sequence[int], num_steps: int, step_s: float, k: int) -> Planned:
    """When answers are said.

    Args:
        times: of their captions, rising, seconds.
        lengths: tokens of each, its end included.
        k: tokens a step; at the last step the rest follows.
    Returns:
        A plan of the first answers; those for which the video has no step left are not in it.
    """
    at, starts, free = [0] * num_steps, [], 0
    for at_s, length in zip(times, lengths, strict=True):
        arrived = max(0, math.ceil(round(at_s / step_s - 0.5, 6)))  # the second frame of a step is its newest
        within = at_s <= num_steps * step_s
        step = max(free, min(arrived, num_steps - 1) if within else arrived)
        if step >= num_steps:
            break
        starts.append(sum(at))
        left = length
        while left:
            at[step] = left if step == num_steps - 1 else min(k, left)
            left -= at[step]
            step += 1
        free = step
    return Planned(tuple(at), tuple(starts))


def plan_of_asked(
    times: Sequence[float], lengths: Sequence[int], num_steps: int, step_s: float, k: int
) -> tuple[Planned, tuple[int, ...]]:
    """When a narration speaks that is asked in mid-stream.

    Args:
        times: of the questions, rising, seconds; one that comes within a step or at its end is asked in it.
        lengths: tokens of what is said from the first step on, and of each answer.
    Returns:
        The plan, and the step of each question.
    Raises:
        UserError: the video is over by then, or what was said before is not.
    """
    steps = tuple(max(0, math.ceil(round(at_s / step_s, 6)) - 1) for at_s in times)
    for (begin, end), length, at_s in zip(pairwise([0, *steps]), lengths, times, strict=False):
        if end >= num_steps:
            raise UserError(f"the question at {at_s:g} s comes after the video, which has {num_steps * step_s:g} s")
        if begin + math.ceil(length / k) > end:
            raise UserError(
                f"at {at_s:g} s, when a question is asked, what was said before is not over: it has {length} tokens, "
                f"{k} a step"
            )
    return plan_of([0.0, *((step + 0.5) * step_s for step in steps)], lengths, num_steps, step_s, k), steps


def decisions_of(tokens: Layout, plan: Planned, balanced: bool) -> torch.Tensor:
    """What the last token of each step that is watched is to decide.

    Args:
        tokens: of a sample laid out by the plan, L of them.
        balanced: see policies.speak.gate.
    Returns:
        (L,) float32: positive where an answer begins, negative for "not yet", by what it weighs in the loss; 0 where
        nothing is decided: all other rows, and steps at which an answer goes on.
    """
    first = [0, *accumulate(plan.at)]
    begins = [bool(count) and first[step] in plan.starts for step, count in enumerate(plan.at)]
    silent = [not count for count in plan.at]
    weight = max(1, sum(begins)) / max(1, sum(silent)) if balanced else 1.0
    values = [1.0 if begin else -weight if still else 0.0 for begin, still in zip(begins, silent, strict=True)]
    decisions = torch.zeros(len(tokens))
    watched = tokens.where(Kind.VIDEO) | tokens.where(Kind.AROUND) | tokens.where(Kind.SUFFIX)
    rows = watched.nonzero()[:, 0]
    steps = tokens.step[rows]
    newest = torch.cat([steps[1:] != steps[:-1], torch.ones(min(1, len(steps)), dtype=torch.bool)])
    decisions[rows[newest]] = torch.tensor(values)[steps[newest]]
    return decisions
