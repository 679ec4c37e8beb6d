"""How the tokens of a turn are chosen, and when a turn is over.

A turn ends with <|im_end|> or at its limit. " ..." before it says that more is to come; alone it is silence. Logits
pass through transformers' own processors, in the order of its `generate`.
"""

from dataclasses import dataclass, field, replace

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from swwatch.errors import UserError
from swwatch.rules.systems import Sampling


class EllipsisThreshold(LogitsProcessor):
    """Forbids " ..." where its probability is not above base + step x n, n tokens into the turn (LiveCC).

    A higher base makes a model talk more; a positive step makes it harder to end as the answer grows.
    """

    def __init__(self, ellipsis: int, base: float, step: float = 0.0):
        self.ellipsis, self.base, self.step, self.count = ellipsis, base, step, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """scores (B, V); each row is judged by itself."""
        threshold = self.base + self.step * self.count
        self.count += 1
        low = scores.float().softmax(-1)[:, self.ellipsis] <= threshold
        scores = scores.clone()
        scores[low, self.ellipsis] = -torch.inf
        return scores


@dataclass(frozen=True)
class Choosing:
    """How tokens are chosen.

    Attributes:
        sampling: see systems.Sampling.
        top_k, top_p: as in transformers, where 0 and 1 are off; None is the checkpoint's own.
        threshold_base, threshold_step: of EllipsisThreshold; a base of None is off.
        seed: of a session's own random numbers.
    """

    sampling: Sampling
    top_k: int | None = None
    top_p: float | None = None
    threshold_base: float | None = None
    threshold_step: float = 0.0
    seed: int = 42

    def __post_init__(self):
        how = self.sampling
        cold = how.do_sample and how.temperature is not None and how.temperature <= 0
        if how.max_new_tokens < 1 or how.repetition_penalty <= 0 or cold:
            raise UserError("max_new_tokens must be at least 1, repetition_penalty and temperature above 0")

    def settled(self, own) -> "Choosing":
        """The same, with what is left open as the checkpoint has it.

        Args:
            own: its generation_config. What that leaves open, too, is as transformers' `generate` has it, which the
                public releases call: temperature 1, top-k 50, top-p 1.
        """
        temperature, top_k, top_p = (
            next(value for value in (asked, getattr(own, name, None), default) if value is not None)
            for name, asked, default in (
                ("temperature", self.sampling.temperature, 1.0),
                ("top_k", self.top_k, 50),
                ("top_p", self.top_p, 1.0),
            )
        )
        return replace(self, sampling=replace(self.sampling, temperature=temperature), top_k=top_k, top_p=top_p)

    def processors(self, ellipsis: int) -> LogitsProcessorList:
        """For one turn, whose tokens it counts."""
        how, made = self.sampling, LogitsProcessorList()
        if how.repetition_penalty != 1:
            made.append(RepetitionPenaltyLogitsProcessor(how.repetition_penalty))
        if self.threshold_base is not None:
            made.append(EllipsisThreshold(ellipsis, self.threshold_base, self.threshold_step))
        if how.do_sample:
            if how.temperature not in (1, None):
                made.append(TemperatureLogitsWarper(how.temperature))
            if self.top_k:
                made.append(TopKLogitsWarper(self.top_k))
            if self.top_p is not None and self.top_p < 1:
                made.append(TopPLogitsWarper(self.top_p))
        return made


@dataclass
class Chooser:
    """Draws tokens for one session. `generator` is its own, so that no other session changes what it says."""

    choosing: Choosing
    ellipsis: int
    generator: torch.Generator = field(default_factory=torch.Generator)

    def __post_init__(self):
        self.generator.manual_seed(self.choosing.seed)
        self.begin_turn()

    def begin_turn(self) -> None:
        self._processors = self.choosing.processors(self.ellipsis)

    def __call__(self, logits: torch.Tensor, context: list[int]) -> int:
        """A token for (V,) float32 logits.

        Args:
            context: every token id in view, once or more often: for the repetition penalty.
        """
        ids = torch.tensor([context], device=logits.device)
        scores = self._processors(ids, logits[None])
        if not self.choosing.sampling.do_sample:
            return int(scores.argmax())
        chances = scores.softmax(-1)[0].cpu()  # drawn on the CPU: the same on every device
        return int(torch.multinomial(chances, 1, generator=self.generator))
