"""Tokens laid out: by a variant's rule as they arrive, or a whole sample at once; spans of a chat as they stand."""

from collections.abc import Mapping, Sequence

import torch

from swwatch.rules.layout import KINDS, TEXT, Kind, Layout
from swwatch.rules.patch import Patch, Placed
from swwatch.rules.schedule import Planned, Schedule, Steady, seconds_of_step, spoken_steps
from swwatch.rules.spans import SAID_PARTS, Part, Span
from swwatch.rules.variants import Speaks, Variant, get
from swwatch.rules.visibility import SAID, THOUGHT, WATCHED

SUFFIX_LEN = 3  # <|vision_end|><|im_end|>\n
HEADER_LEN = 3  # <|im_start|>assistant\n
NOTE_LEN = 3  # <|im_start|>thought\n


class Cursor:
    """Lays tokens out as they arrive, step by step. `layout` below is this same cursor run over a whole sample.

    Call `prompt` once, then `watch` for every patch, `suffix` after the last, and `say` for text as it is spoken
    or thought; `ask` where a further question comes in mid-stream.

    Attributes:
        placed: step -> where its patch stands.
    """

    def __init__(self, variant: Variant, t_per_step: float = 2):
        self.variant = variant
        self.rule = variant.positions(t_per_step)
        self.num_steps = 0
        self.counts = {WATCHED: 0, SAID: 0, THOUGHT: 0}
        self.placed: dict[int, Placed] = {}

    def _run(self, kind: Kind, position_ids: torch.Tensor, step: int, sees: int, end: int = -1) -> Layout:
        """A run of tokens. `end`: a position that it reaches even where the tokens that stood there are dropped."""
        n = position_ids.shape[1]
        text = TEXT.get(kind, WATCHED)
        stream = text if self.variant.streams == 2 else WATCHED
        order = torch.arange(self.counts[stream], self.counts[stream] + n)
        self.counts[stream] += n
        if n:
            end = max(end, int(position_ids.max()))
        self.rule.reach(text, end)
        fill = torch.full
        return Layout(
            fill((n,), KINDS.index(kind)), fill((n,), step), fill((n,), stream), order, fill((n,), sees), position_ids
        )

    def prompt(self, length: int) -> Layout:
        return self.ask(length)

    def ask(self, length: int) -> Layout:
        """A question before the next patch: what is watched of that step, for whoever may see that step."""
        step = self.num_steps
        run = self._run(Kind.PROMPT, _line(self.rule.question_start(step), length), step, step)
        self.rule.begin_grid(step)
        return run

    def watch(
        self, rows: int, columns: int, kept: Sequence[int] | None = None, before: int = 0, after: int = 0
    ) -> Layout:
        """The next patch, see rules.patch, and what is around it. An empty one (0, 0) ends a stream that ends late."""
        step, around = self.num_steps, []
        if before:
            start = self.rule.announced_start(step)
            around.append(self._run(Kind.AROUND, _line(start, before), step, step))
            t = h = w = start + before
        else:
            t, h, w = self.rule.patch_start(step)
        grid_h = torch.arange(h, h + rows).repeat_interleave(columns)
        grid_w = torch.arange(w, w + columns).repeat(rows)
        where = torch.stack([torch.full_like(grid_h, t), grid_h, grid_w])
        if kept is not None:
            where = where[:, list(kept)]
        if rows and columns:
            self.placed[step] = Placed((t, h, w), rows, columns, before)
        run = self._run(Kind.VIDEO, where, step, step, self.placed[step].end if step in self.placed else -1)
        if before or after:
            closing = self._run(Kind.AROUND, _line(self.rule.watched_end + 1, after), step, step)
            run = Layout.cat([*around, run, closing])
        self.num_steps += 1
        return run

    def strike(self, rows: Layout, patch: Patch) -> Layout:
        """The newest run that is watched, laid out whole, as it is now that the patch in it has lost cells."""
        self.counts[WATCHED] -= patch.num_dropped
        return rows.strike(patch)

    def suffix(self, length: int = SUFFIX_LEN) -> Layout:
        step = self.num_steps - 1
        return self._run(Kind.SUFFIX, _line(self.rule.suffix_start(), length), step, step)

    def say(self, length: int, step: int, kind: Kind = Kind.ANSWER, sees: int | None = None) -> Layout:
        """Text spoken, or thought, at `step`. `sees`: newest step that the tokens it PREDICTS may see; by default
        `step`."""
        start = self.rule.start_of(TEXT[kind], step) if length else 0
        return self._run(kind, _line(start, length), step, step if sees is None else sees)

    def state(self) -> dict:
        """What later tokens depend on, in numbers and texts."""
        placed = {step: tuple(patch) for step, patch in self.placed.items()}
        facts = {"num_steps": self.num_steps, "counts": dict(self.counts)}
        return facts | {"rule": dict(vars(self.rule)), "placed": placed}

    def load_state(self, state: dict) -> None:
        """Go on from a `state` of the same variant."""
        vars(self.rule).update(state["rule"])
        self.num_steps, self.counts = state["num_steps"], self.counts | state["counts"]
        self.placed = {step: Placed(*patch) for step, patch in state["placed"].items()}


def _line(start: int, length: int) -> torch.Tensor:
    """(3, length): equal positions on all axes, as text has them."""
    return torch.arange(start, start + length).expand(3, -1)


def layout(
    name: str,
    prompt_len: int,
    grids: Sequence[Patch | tuple[int, int]],
    answer_len: int,
    wait_k: int = 3,
    *,
    schedule: Schedule | None = None,
    suffix_len: int = SUFFIX_LEN,
    header_len: int = HEADER_LEN,
    t_per_step: float = 2,
    step_s: float = seconds_of_step(),
    questions: Mapping[int, int] | None = None,
    starts: Sequence[int] | None = None,
    thoughts: Planned | None = None,
    note_len: int = NOTE_LEN,
) -> Layout:
    """Lay out a whole sample: every token in training order with its step, positions and visibility.

    Order: prompt, V_1..V_n, suffix, header, answer.
    Order of interleave: prompt, V_1, header, A_1, V_2, A_2, ..., V_n, suffix, A_n. Thoughts stand before the header.

    Args:
        name: a variant of VARIANTS.
        prompt_len: tokens up to the first patch and what announces it.
        grids: the patch of each step, or (rows, columns) of its merged grid; (0, 0) where the stream ended without a
            further frame.
        answer_len: spoken tokens, <|im_end|> included.
        wait_k: tokens per step; `schedule` replaces it.
        t_per_step: temporal positions per step, see rules.families (2 in the released checkpoints, at 2 frames a
            second); step_s: seconds of a step, for the schedule.
        questions: step -> tokens of a further question that stands before its patch.
        starts: which of the spoken tokens begin an answer, behind a header at the step that they are spoken at; each
            is the first one of its step. None: one answer, whose header comes at the first step.
        thoughts: how many tokens are thought at each step, and which of them begin a note, behind `note_len` tokens at
            their step. At the last step nothing is thought, for nothing said could see it. None: none.
    Returns:
        Layout of L = prompt_len + sum of the patches' kept tokens and those around them + suffix_len + header_len +
        answer_len tokens, and those of further questions, headers and thoughts, on the CPU.
    Raises:
        UserError: unknown variant, or one that cannot think. ValueError: no steps, a negative length, or thoughts at
            other steps.
    """
    variant, num_steps = get(name), len(grids)
    if num_steps < 1 or prompt_len < 0 or answer_len < 0:
        raise ValueError(f"need at least one step and lengths >= 0: {prompt_len=}, {num_steps=}, {answer_len=}")
    cursor = Cursor(variant, t_per_step)
    spoken = spoken_steps(schedule or Steady(wait_k), answer_len, num_steps, step_s)
    per_step = [spoken.count(step) for step in range(num_steps)]
    watched, said, arrived = [cursor.prompt(prompt_len)], [], []
    noted = _Noted(cursor, thoughts, num_steps, note_len) if thoughts is not None else None

    def watch(step: int) -> None:
        if questions and step in questions:
            watched.append(cursor.ask(questions[step]))
        watched.append(cursor.watch(*grids[step]))
        if step == num_steps - 1:
            watched.append(cursor.suffix(suffix_len))

    def speak(step: int) -> None:
        begins = step == 0 if starts is None else per_step[step] > 0 and sum(per_step[:step]) in starts
        if begins:
            said.append(cursor.say(header_len, step, Kind.HEADER))
        said.append(cursor.say(per_step[step], step))

    if variant.speaks is Speaks.OFFLINE:
        for step in range(num_steps):
            watch(step)
        for step in range(num_steps):
            speak(step)
    else:
        for step in range(num_steps):
            first_new = len(watched), len(said)
            watch(step)
            if noted is not None:
                noted.think(step)
            speak(step)
            arrived += watched[first_new[0] :] + said[first_new[1] :]
    if variant.speaks is Speaks.ALTERNATING:
        return Layout.cat(watched[:1] + arrived)
    text = Layout.cat(said)
    if variant.streams == 2:  # a row carries what the token it PREDICTS may see; the last one, what its own step sees
        text.sees[:-1] = text.step[1:]
    else:
        text.sees[:] = num_steps - 1
    return Layout.cat([*watched, *(noted.rows() if noted is not None else ()), text])


class _Noted:
    """What is thought in a sample, laid out step by step."""

    def __init__(self, cursor: Cursor, plan: Planned, num_steps: int, note_len: int):
        cursor.variant.check_thoughts()
        if len(plan.at) != num_steps or plan.at[-1]:
            raise ValueError(f"thoughts at {len(plan.at)} steps, {plan.at[-1]} of them at the last of {num_steps}")
        self.cursor, self.plan, self.num_steps, self.note_len = cursor, plan, num_steps, note_len
        self.runs: list[Layout] = []

    def think(self, step: int) -> None:
        if self.plan.at[step] and sum(self.plan.at[:step]) in self.plan.starts:
            self.runs.append(self.cursor.say(self.note_len, step, Kind.NOTE))
        self.runs.append(self.cursor.say(self.plan.at[step], step, Kind.THOUGHT))

    def rows(self) -> list[Layout]:
        """All of them; a row carries what the token it PREDICTS may see. The last one waits for another note."""
        rows = Layout.cat(self.runs)
        if len(rows):
            rows.sees[:] = torch.cat([rows.step[1:], torch.tensor([self.num_steps])])
        return [rows]


def layout_of(
    spans: Sequence[Span], position_ids: torch.Tensor, first: int = 0, num_said: int | None = None
) -> Layout:
    """The columns of spans that follow one another: one causal stream, whose steps are turns, or two.

    Args:
        position_ids: (3, L), from Policy.place.
        first: how many tokens of the stream came before.
        num_said: how many tokens were said before, in a stream of their own; None: there is one stream.
    """
    kinds = torch.tensor([_kind(span) for span in spans for _ in span.ids], dtype=torch.int64)
    steps = torch.tensor([max(span.round, 0) for span in spans for _ in span.ids], dtype=torch.int64)
    order, streams = torch.arange(first, first + len(kinds)), torch.full_like(steps, WATCHED)
    if num_said is None:
        return Layout(kinds, steps, streams, order, steps, position_ids)
    said = torch.tensor([span.part in SAID_PARTS for span in spans for _ in span.ids], dtype=torch.bool)
    streams[said], sees = SAID, steps.clone()
    order = torch.where(said, num_said + said.cumsum(0), first + (~said).cumsum(0)) - 1
    sees[said] = torch.cat([steps[said][1:], steps[said][-1:]])  # a row carries what the token it PREDICTS may see
    return Layout(kinds, steps, streams, order, sees, position_ids)


def _kind(span: Span) -> int:
    if span.part is Part.VIDEO:
        return KINDS.index(Kind.VIDEO)
    return KINDS.index(Kind.ANSWER if span.part in (Part.ANSWER, Part.PREVIOUS) else Kind.PROMPT)
