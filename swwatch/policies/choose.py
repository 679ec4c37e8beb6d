"""CHOOSE: which token comes next, and when an answer is over. One table; policies.chooser carries it out.

Written as text like all policies: `greedy:1.15`, `sampling:0.9:top_k=50`. An answer ends with <|im_end|> or at its
limit. In chat turns " ..." before it says that more is to come; alone it is silence.
"""

from dataclasses import dataclass, fields, replace
from typing import ClassVar

from swwatch.errors import UserError
from swwatch.policies.table import Policy, forms, option, parse, table

LIMIT = 300  # tokens of an answer that has none of its own: what the paper allows


@dataclass(frozen=True)
class Choosing(Policy):
    """What all share: options that every row of the table has.

    Attributes:
        penalty: divides positive and multiplies negative logits of every token in view; 1 is off.
        max_new_tokens: limit of a whole answer, or of a turn. None: no limit while the stream goes on, and 300 once it
            has ended.
        stop_early: let <|im_end|> end the answer before the last video step. By default it is suppressed until then;
            a turn may always end.
        threshold, threshold_step: in chat turns " ..." is forbidden where its probability is not above threshold +
            step x n, n tokens into the turn (LiveCC). A higher one makes a model talk more; a positive step makes it
            harder to end as the answer grows. None is off.
    """

    table: ClassVar[str] = "choose"
    draws: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        for name in ("penalty", "temperature"):
            value = vars(self).get(name)
            if value is not None and value <= 0:
                raise UserError(f"{self.name}: {name} must be above 0, not {value:g}")
        if self.threshold is None and self.threshold_step:
            raise UserError(f"{self.name}: threshold_step is added to threshold, give both")

    def left(self, num_spoken: int) -> int:
        """How many tokens may be spoken yet."""
        return LIMIT if self.max_new_tokens is None else self.max_new_tokens - num_spoken

    def settled(self, own) -> "Choosing":
        """The same, with what is left open as the checkpoint has it; `own` is its generation_config."""
        return self

    def drawing(self, draws: bool) -> "Choosing":
        """The same with tokens drawn, or the likeliest one taken."""
        kind = Sampling if draws else Greedy
        known = {option.name for option in fields(kind)}
        options = {name: value for name, value in vars(self).items() if name in known}
        return self if type(self) is kind else kind(**options)


@dataclass(frozen=True)
class Greedy(Choosing):
    """The likeliest token, as the paper's near-greedy sampling (temperature 0.01, top-k 1) in effect takes it."""

    name: ClassVar[str] = "greedy"
    penalty: float = option(1.15)
    max_new_tokens: int | None = option(LIMIT, least=1)
    stop_early: bool = option(False)
    threshold: float | None = option(None)
    threshold_step: float = option(0.0)


@dataclass(frozen=True)
class Sampling(Choosing):
    """A drawn token. The numbers are a session's own, drawn on the CPU: the same on every device.

    Attributes:
        temperature, top_k, top_p: as in transformers, where 1, 0 and 1 are off; None is the checkpoint's own.
        seed: of the session's random numbers.
    """

    name: ClassVar[str] = "sampling"
    draws: ClassVar[bool] = True
    temperature: float | None = option(None)
    top_k: int | None = option(None, least=0)
    top_p: float | None = option(None, least=0, most=1)
    seed: int = option(42)
    penalty: float = option(1.05)
    max_new_tokens: int | None = option(LIMIT, least=1)
    stop_early: bool = option(False)
    threshold: float | None = option(None)
    threshold_step: float = option(0.0)

    def settled(self, own) -> "Sampling":
        """As `Choosing.settled`. What the checkpoint leaves open, too, is as transformers' `generate` has it, which
        the public releases call: temperature 1, top-k 50, top-p 1."""
        settled = {}
        for name, default in (("temperature", 1.0), ("top_k", 50), ("top_p", 1.0)):
            values = (getattr(self, name), getattr(own, name, None), default)
            settled[name] = next(value for value in values if value is not None)
        return replace(self, **settled)


CHOOSE = table(Greedy, Sampling)
FORMS = forms(CHOOSE)


def parse_choose(text: str | Choosing) -> Choosing:
    """Inverse of `str(policy)`; options that are left out take their defaults.

    Raises:
        UserError: not one of the forms, or a number out of its range.
    """
    return parse(CHOOSE, text)
