"""What a step of watching and speaking can cost at least, by arithmetic: the paper's bound, and two rooflines.

    p       seconds to watch a step of m video tokens          g       seconds to speak its K tokens
    c       seconds to think beside that, where it thinks: then (p + g + c) / max(p, g, c), at most 3
    W       bytes of the LLM's weights that a forward reads     B       bytes a second that memory gives
    N       parameters behind them (2 N operations a token)     F       operations a second

One session: serial takes p + g for a step, watching and speaking at the same time takes max(p, g) at best, so
S = (p + g) / max(p, g), at most 2 (arXiv 2601.06843, its figure 6). With slow-downs a and b under overlap it becomes
(p + g) / max(a p, b g).

A forward of n tokens takes max(W / B, 2 N n / F): few tokens cost the reading of the weights and no more. That gives
the bound of decoding (B / W tokens a second), and that of the fused engine, whose K text forwards carry the video
tokens along. Attention is left out, but where `cached` bytes of keys and values are told, which are read beside W.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Roof:
    """One LLM on one device.

    Attributes:
        weight_bytes: W, read by every forward; parameters: N.
        bandwidth: B in bytes a second; flops: F in operations a second.
    """

    weight_bytes: int
    parameters: int
    bandwidth: float
    flops: float

    def forward_s(self, tokens: float, cached: float = 0) -> float:
        """Seconds that a forward of so many tokens takes at least, which reads so many bytes of keys and values."""
        return max((self.weight_bytes + cached) / self.bandwidth, 2 * self.parameters * tokens / self.flops)

    def decode_per_s(self) -> float:
        """Tokens a second of one session at most."""
        return 1 / self.forward_s(1)

    def fused_gain(self, video_tokens: int, k: int, thoughts: int = 0) -> float:
        """S of the fused engine's LLM part at most: k + 1 forwards, and as many as there are thoughts, become the more
        of k and these, until they are bound by computing."""
        step = video_tokens, k, thoughts
        return self.fused_steps_per_s(*step) / self.serial_steps_per_s(*step)

    def serial_steps_per_s(self, video_tokens: int, k: int, thoughts: int = 0) -> float:
        """Steps a second of one serial session at most."""
        return 1 / (self.forward_s(video_tokens) + (k + thoughts) * self.forward_s(1))

    def fused_steps_per_s(self, video_tokens: int, k: int, thoughts: int = 0) -> float:
        """Steps a second of one fused session at most."""
        forwards = max(k, thoughts)
        return 1 / (forwards * self.forward_s((video_tokens + k + thoughts) / forwards))


def overlap_gain(watch_s: float, speak_s: float, a: float = 1.0, b: float = 1.0, think_s: float = 0.0) -> float:
    """S = (p + g) / max(a p, b g); with a = b = 1 the paper's bound. With thoughts they are a third party."""
    return (watch_s + speak_s + think_s) / max(a * watch_s, b * speak_s, think_s)


def weights_read(model: "nn.Module") -> dict[str, int]:
    """What a decoding forward of the LLM reads: its layers and the output head, not the table of embeddings."""
    read = [*model.model.language_model.layers.parameters(), *model.lm_head.parameters()]
    return {
        "weight_bytes": sum(weight.numel() * weight.element_size() for weight in read),
        "parameters": sum(weight.numel() for weight in read),
    }


def reprefill_tokens(video_tokens: int, k: int, steps: int, *, prompt: int, suffix: int, header: int) -> int:
    """Tokens that go through the LLM when every step is run again from the beginning, and its own words from a cache.

    Step i (from 1): prompt, i times the video tokens, header, k (i - 1) words, at the last step the suffix; then k - 1
    further words one by one. Quadratic in `steps`.
    """
    whole = sum(prompt + video_tokens * i + header + k * (i - 1) for i in range(1, steps + 1))
    return whole + suffix + steps * (k - 1)


def serial_tokens(video_tokens: int, k: int, steps: int, *, prompt: int, suffix: int, header: int) -> int:
    """Tokens that go through the LLM when each is fed once; the very last word is fed nowhere."""
    return prompt + video_tokens * steps + suffix + header + k * steps - 1
