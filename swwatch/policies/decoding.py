"""How the words of an answer are chosen: how many there may be, what is punished, which ids end it."""

from dataclasses import dataclass

from swwatch.errors import UserError


@dataclass(frozen=True)
class Decoding:
    """Greedy decoding, as the paper's near-greedy sampling (temperature 0.01, top-k 1) in effect is.

    Attributes:
        max_new_tokens: limit of the whole answer; the paper allows 300. None: no limit while the stream goes on, and
            300 once it has ended.
        repetition_penalty: divides positive and multiplies negative logits of every token seen so far; 1 is off.
        stop_early: let <|im_end|> end the answer before the last video step. By default it is suppressed until then.
    """

    max_new_tokens: int | None = 300
    repetition_penalty: float = 1.15
    stop_early: bool = False

    def __post_init__(self):
        if (self.max_new_tokens is not None and self.max_new_tokens < 1) or self.repetition_penalty <= 0:
            raise UserError("max_new_tokens must be at least 1 and repetition_penalty above 0")

    def left(self, num_spoken: int) -> int:
        """How many tokens may be spoken yet."""
        return 300 if self.max_new_tokens is None else self.max_new_tokens - num_spoken


def stop_ids(model) -> set[int]:
    """Ids that end an answer: <|im_end|>, and what the checkpoint's generation_config names."""
    ends = model.generation_config.eos_token_id
    return {model.markup.im_end, *([] if ends is None else ends if isinstance(ends, list) else [ends])}
