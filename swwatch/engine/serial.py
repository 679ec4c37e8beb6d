"""The serial engine: watch step i, speak its tokens, watch step i+1. The reference for every other engine.

It serves all six variants. Parallel variants decode from two KV stores, interleave alternates in one sequence, the
offline ones watch as frames come and speak at the end. Every token is fed to the LLM exactly once.

`Session` holds these rules as coroutines that ask for what the model computes (see requests.py); `SerialSession` asks
the model at once, `batch.Batch` gathers what many sessions ask for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import RepetitionPenaltyLogitsProcessor

from swwatch import variants
from swwatch.data.pixels import merged_grids
from swwatch.engine.requests import Feed, Look, Run, drive
from swwatch.engine.trace import SimulatedClock, Spoken
from swwatch.errors import UserError
from swwatch.layout import Kind, Layout
from swwatch.model.modeling import WatchingQwen2_5_VL
from swwatch.schedule import Schedule
from swwatch.variants import Speaks


@dataclass(frozen=True)
class Decoding:
    """Greedy decoding, as the paper's near-greedy sampling (temperature 0.01, top-k 1) in effect is.

    Attributes:
        max_new_tokens: limit of the whole answer; the paper allows 300.
        repetition_penalty: divides positive and multiplies negative logits of every token seen so far; 1 is off.
        stop_early: let <|im_end|> end the answer before the last video step. By default it is suppressed until then.
    """

    max_new_tokens: int = 300
    repetition_penalty: float = 1.15
    stop_early: bool = False

    def __post_init__(self):
        if self.max_new_tokens < 1 or self.repetition_penalty <= 0:
            raise UserError("max_new_tokens must be at least 1 and repetition_penalty above 0")


class Session:
    """One stream being narrated, as coroutines: `begin` once, `watch` every step, mark the last one or `close`.

    They yield Look and Feed requests, to be sent the answers, and Spoken tokens. Exhaust one before starting the next.
    """

    def __init__(
        self,
        model: WatchingQwen2_5_VL,
        prompt: list[int],
        *,
        schedule: Schedule | None = None,
        decoding: Decoding | None = None,
        clock=None,
    ):
        """
        Args:
            prompt: token ids up to and including <|vision_start|>.
            schedule: by default the checkpoint's own.
            clock: has now() and arrive(at_s) in stream seconds; by default a SimulatedClock.
        """
        self.model, self.markup = model, model.markup
        self.variant = variants.get(model.settings.variant)
        self.schedule = schedule or model.settings.schedule
        self.decoding = decoding or Decoding()
        self.clock = clock or SimulatedClock()
        self.cursor = variants.Cursor(self.variant, model.t_per_step)
        self.cache = model.new_cache()
        self.context = list(prompt) + [self.markup.video]  # ids that the repetition penalty counts
        self.pending: list[tuple[list[int], Layout]] = []  # said, but not yet fed to the LLM
        self.num_spoken = 0
        self.arrivals: list[float] = []  # of each real step, stream seconds
        self.closed = self.finished = self.speaking = False
        self.logits = None  # (V,) after the newest row, when that row predicts the next token
        self._penalty = RepetitionPenaltyLogitsProcessor(self.decoding.repetition_penalty)
        self._stops = {self.markup.im_end, *_ids(model.generation_config.eos_token_id)}
        self._prompt = list(prompt)

    def begin(self) -> Run:
        """Feed the prompt."""
        yield from self._feed(self.cursor.prompt(len(self._prompt)), self.model.embed(self._prompt))

    def watch(self, pixel_values: torch.Tensor, grid_thw: torch.Tensor, arrival_s: float, last: bool = False) -> Run:
        """Take in one step (two frames) and speak what the schedule allows.

        Args:
            pixel_values: (patches, D) of one temporal patch.
            grid_thw: (1, 3), patches before the merge; t must be 1.
            arrival_s: when its second frame arrived, stream seconds.
            last: nothing follows; the rest of the answer is spoken now.
        """
        self._refuse_if_speaking()
        if self.closed:
            raise ValueError("this session is closed: begin a new one for another stream")
        (rows, columns), *more = merged_grids(grid_thw, self.model.config.vision_config.spatial_merge_size)
        if more:
            raise ValueError(f"watch takes one step at a time, got {1 + len(more)}")
        self.clock.arrive(arrival_s)
        self.arrivals.append(arrival_s)
        yield from self._advance((rows, columns), (yield Look(pixel_values, grid_thw)), last)

    def close(self) -> Run:
        """The stream ended after a step that was not marked as the last: speak the rest.

        The layout is that of one more step without video tokens, so training's rules hold here as well.
        """
        self._refuse_if_speaking()
        if not self.arrivals:
            raise UserError("the stream ended before its first frame: nothing to describe")
        if not self.closed:
            yield from self._advance((0, 0), None, last=True)

    def _refuse_if_speaking(self) -> None:
        if self.speaking:
            raise ValueError("the tokens of the step before have not all been taken: exhaust its generator first")

    def _advance(self, grid: tuple[int, int], video: torch.Tensor | None, last: bool) -> Run:
        step = self.cursor.num_steps
        self.closed, self.speaking = last, True
        # 1) watch: in one sequence, what was said before comes first; in two, it waits until a token is wanted
        rows, embeds = [], []
        if self.variant.speaks is Speaks.ALTERNATING:
            self._take_pending(rows, embeds)
        rows.append(self.cursor.watch(*grid))
        if video is not None:
            embeds.append(video)
        if last:
            rows.append(self.cursor.suffix(len(self.markup.suffix)))
            embeds.append(self.model.embed(self.markup.suffix))
        after_watching = yield from self._feed(Layout.cat(rows), torch.cat(embeds))
        # 2) the header is said once; in one sequence the last watched row then predicts the next token
        if step == 0 if self.variant.speaks is not Speaks.OFFLINE else last:
            run = self.cursor.say(len(self.markup.header), 0, Kind.HEADER)
            self.pending.append((list(self.markup.header), run))
            self.context += self.markup.header
        elif self.variant.speaks is Speaks.ALTERNATING:
            self.logits = after_watching
        # 3) speak
        budget = self.decoding.max_new_tokens - self.num_spoken
        if last:
            self.context += self.markup.suffix
        elif self.variant.speaks is Speaks.OFFLINE:
            budget = 0
        else:
            budget = min(self.schedule.budget(step), budget)
        yield from self._speak(step, budget, last)
        self.speaking = False

    def _speak(self, step: int, budget: int, last: bool) -> Run:
        newest = min(step, len(self.arrivals) - 1)
        while budget > 0 and not self.finished:
            budget -= 1
            if self.pending:
                rows, embeds = [], []
                self._take_pending(rows, embeds)
                rows[-1].sees[-1] = step  # this row predicts now, so it sees as far as now
                self.logits = yield from self._feed(Layout.cat(rows), torch.cat(embeds))
            token = self._choose(last or self.decoding.stop_early)
            self.pending.append(([token], self.cursor.say(1, step)))
            self.context.append(token)
            self.num_spoken += 1
            self.finished = token in self._stops
            yield Spoken(step, token, newest, self.arrivals[newest], self.clock.now())

    def _choose(self, may_stop: bool) -> int:
        scores = self.logits[None]
        if self.decoding.repetition_penalty != 1:
            scores = self._penalty(torch.tensor([self.context], device=scores.device), scores)
        if not may_stop:
            scores = scores.index_fill(1, torch.tensor(sorted(self._stops), device=scores.device), -torch.inf)
        return int(scores.argmax())

    def _take_pending(self, rows: list[Layout], embeds: list[torch.Tensor]) -> None:
        for ids, run in self.pending:
            rows.append(run)
            embeds.append(self.model.embed(ids))
        self.pending = []

    def _feed(self, rows: Layout, embeds: torch.Tensor) -> Run:
        """Returns (V,) logits after the last row."""
        return (yield Feed(self.cache, rows, embeds.to(self.model.dtype)))


class SerialSession(Session):
    """One stream being narrated. Push steps with `watch`, mark the last one or call `close`; tokens come out.

    Both are generators: a token is yielded as soon as it is spoken. Exhaust one before starting the next.
    """

    def __init__(self, model: WatchingQwen2_5_VL, prompt: list[int], **options):
        """Begin a session and feed the prompt. Arguments as for `Session`."""
        super().__init__(model, prompt, **options)
        for _ in drive(model, self.begin()):
            raise AssertionError("nothing is said while the prompt is fed")

    def watch(
        self, pixel_values: torch.Tensor, grid_thw: torch.Tensor, arrival_s: float, last: bool = False
    ) -> Iterator[Spoken]:
        """Take in one step (two frames) and speak what the schedule allows. Arguments as for `Session.watch`."""
        return drive(self.model, super().watch(pixel_values, grid_thw, arrival_s, last))

    def close(self) -> Iterator[Spoken]:
        """The stream ended after a step that was not marked as the last: speak the rest."""
        return drive(self.model, super().close())


def _ids(value: int | list[int] | None) -> list[int]:
    return [] if value is None else value if isinstance(value, list) else [value]
