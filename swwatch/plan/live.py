"""How many live sessions a device holds, and how fast they can be: a roofline from a model's shapes.

A step of n sessions: each one's pixels go through the vision tower, its V video tokens through the LLM in one forward
for all, then K words in K forwards for all. A forward reads the weights once and every session's keys and values, or
takes 2 operations a weight and token, whichever is longer; attention's own operations, launches, the host and waits
are left out. So sessions are told as an upper bound, and `--share` says which part of it is expected.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from swwatch.bench.gpus import GIB, GPUS, Gpu
from swwatch.bench.stream.bounds import Roof, weights_read
from swwatch.config import check_least, setting
from swwatch.errors import UserError
from swwatch.metrics.tables import as_aligned_markdown
from swwatch.plan.models import check_named, config_of
from swwatch.policies.keep import ALL, Keep, KeepAll, Window, parse_keep
from swwatch.rules.families import head_size

if TYPE_CHECKING:
    from torch import nn

CONTEXT = 1 * GIB  # of CUDA and its libraries
# bandwidth and single-precision operations as told by Apple (October 2021), memory at most
APPLE = {"Apple M1 Max": Gpu(10.4e12, 400e9, 64 * GIB)}
SHOWN = ("H200", "H100", "A100 80GB", "L40S", "RTX 4090", "Apple M1 Max")


@dataclass(frozen=True)
class LivePlanSettings:
    """How many live sessions fit, and how fast a word can be, on each device?

    A roofline: no device reaches it, and --share is the part of it that is counted on. Measured here, one CPU thread
    comes to 77 to 98 % of its own in looking and to 38 % in a word of one session; docs/scale.md has more.
    """

    model: str = setting("qwen2.5-vl-3b", "a name (see docs/scale.md), checkpoint folder or hub id")
    dtype: Literal["bfloat16", "float32"] = setting("bfloat16", "of weights, keys and values")
    fps: float = setting(2.0, "frames a second that are watched; two make a step", above=0)
    video_tokens: int = setting(64, "of a step", least=1)
    k: int = setting(3, "words (tokens) spoken in a step", least=1)
    seconds: float = setting(600.0, "of video that a session has room for", above=0)
    keep: str = setting(
        ALL.name, "what of a session stays, also window:120 (seconds of video), as swwatch serve has it"
    )
    prompt: int = setting(64, "tokens of system prompt, question and header", least=0)
    share: float = setting(0.5, "of the roofline that is counted on", above=0, most=1)
    here: bool = setting(False, "measure this machine's CPU, too, in some seconds")
    against: Path | None = setting(None, "a bench_stream.json of `swwatch bench stream`: how near it came, instead")

    def __post_init__(self):
        check_least(self)
        check_named(self.model)
        if not isinstance(self.policy, KeepAll | Window):
            raise UserError(f"plan counts sessions that keep all or a window, not {self.keep}: give --keep window:120")
        if self.against is not None and not self.against.is_file():
            raise UserError(f"no file {self.against}: `swwatch bench stream --output FOLDER` writes one")

    @property
    def step_s(self) -> float:
        return 2 / self.fps

    @property
    def policy(self) -> Keep:
        return parse_keep(self.keep)

    @property
    def held_tokens(self) -> int:
        """Of a session at its longest."""
        policy, steps = self.policy, max(1, round(self.seconds / self.step_s))
        words = steps * self.k
        if policy.forgets:
            steps = min(steps, max(1, round(policy.vision_s / self.step_s)))
            words = min(words, policy.text_sink + policy.text_window)
        return self.prompt + steps * self.video_tokens + words


@dataclass(frozen=True)
class Size:
    """What a model asks of a device.

    Attributes:
        weight_bytes: of the whole model; llm: of `bounds.weights_read`; vision_parameters: of tower and merger.
        token_bytes: keys and values of a token.
        patches_per_token: of the vision tower.
    """

    weight_bytes: int
    llm: dict[str, int]
    vision_parameters: int
    token_bytes: int
    patches_per_token: int


def size_of(settings: LivePlanSettings) -> Size:
    """Count a model that is made without memory.

    Raises:
        UserError: its configuration cannot be read.
    """
    import torch

    from swwatch.bench.models import num_parameters
    from swwatch.model.families import model_class
    from swwatch.model.upstream import from_config

    config = config_of(settings.model, "group", settings.fps)
    dtype = getattr(torch, settings.dtype)
    with torch.device("meta"):
        model: nn.Module = from_config(model_class(config.model_type), config, dtype=dtype)
    text = config.text_config
    return Size(
        dtype.itemsize * num_parameters(model),
        weights_read(model),
        num_parameters(model.model.visual),
        2 * text.num_hidden_layers * text.num_key_value_heads * head_size(text) * dtype.itemsize,
        config.vision_config.spatial_merge_size**2,
    )


@dataclass(frozen=True)
class LivePlan:
    """Sessions of one size on one device.

    Attributes:
        share: of the roofline that is counted on.
    """

    settings: LivePlanSettings
    size: Size
    device: Gpu
    share: float = 1.0

    @property
    def roof(self) -> Roof:
        return Roof(
            **self.size.llm, bandwidth=self.device.bandwidth * self.share, flops=self.device.flops * self.share
        )

    @property
    def read_bytes(self) -> int:
        """Keys and values of a session at its longest, which every forward reads."""
        return self.size.token_bytes * self.settings.held_tokens

    @property
    def session_bytes(self) -> int:
        """The same and, where what stays moves up, keys as they stood first, from which they are turned."""
        return self.read_bytes * (3 if self.settings.policy.moves else 2) // 2

    @property
    def sessions_in_memory(self) -> int:
        """0: not even the model fits."""
        left = 0.9 * self.device.memory - CONTEXT - self.size.weight_bytes
        return max(0, int(left // self.session_bytes))

    def look_s(self, sessions: int = 1) -> float:
        """Seconds of the vision tower for a step."""
        operations = 2 * self.size.vision_parameters * self.settings.video_tokens * self.size.patches_per_token
        return sessions * operations / self.roof.flops

    def watch_s(self, sessions: int = 1) -> float:
        """Seconds of the LLM for a step's video tokens, over caches that are half full."""
        cached = sessions * self.read_bytes / 2
        return self.roof.forward_s(sessions * self.settings.video_tokens, cached)

    def word_s(self, sessions: int = 1, full: float = 0.5) -> float:
        """Seconds of a word; full: how full the caches are."""
        return self.roof.forward_s(sessions, sessions * self.read_bytes * full)

    def step_s(self, sessions: int = 1) -> float:
        """Seconds of a step of all sessions."""
        return self.look_s(sessions) + self.watch_s(sessions) + self.settings.k * self.word_s(sessions)

    @property
    def sessions_in_time(self) -> int:
        """Whose step takes no longer than it lasts; every part of one grows with their number."""
        low, high = 0, 1
        while self.step_s(high) <= self.settings.step_s and high < 1 << 20:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.step_s(middle) <= self.settings.step_s else (low, middle)
        return low

    @property
    def sessions(self) -> int:
        return min(self.sessions_in_memory, self.sessions_in_time)


def devices(settings: LivePlanSettings) -> dict[str, Gpu]:
    """The devices that are shown; this machine's CPU as measured now."""
    found = {name: (GPUS | APPLE)[name] for name in SHOWN}
    if settings.here:
        import os

        import torch

        from swwatch.bench.stream.rates import device_rates

        rates = device_rates("cpu", getattr(torch, settings.dtype))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        found["this CPU"] = Gpu(rates["flops"], rates["bandwidth"], memory)
    return found


def compare(settings: LivePlanSettings) -> str:
    """Which part of the roofline a measurement came to, by what its own machine could do in the same run.

    Raises:
        UserError: the file is no record of `swwatch bench stream`.
    """
    try:
        result = json.loads(settings.against.read_text(encoding="utf-8"))
        rates, shapes, points = result["rates"], result["shapes"], result["points"]
        device = Gpu(rates["flops"], rates["bandwidth"], 0)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{settings.against} is no record of `swwatch bench stream`: give the bench_stream.json that "
            "`swwatch bench stream --output FOLDER` writes into its folder"
        ) from error
    rows = [("model", "video tokens", "K", "part", "plan ms", "measured ms", "share")]
    for point in (point for point in points if "watch_s" in point):
        place = {"video_tokens": point["video_tokens"], "k": point["k"], "seconds": settings.step_s * point["steps"]}
        point_settings = replace(settings, model=point["shape"], dtype=shapes[point["shape"]]["precision"], **place)
        plan = LivePlan(point_settings, size_of(point_settings), device)
        pairs = {"look": (plan.look_s(), point["vision_s"]), "a word": (plan.word_s(), point["speak_s"] / point["k"])}
        pairs["look and watch"] = plan.look_s() + plan.watch_s(), point["watch_s"]
        for name, (best, found) in pairs.items():
            times = (f"{1000 * best:.1f}", f"{1000 * found:.1f}", f"{best / found:.0%}")
            rows.append((point["shape"], str(point["video_tokens"]), str(point["k"]), name, *times))
    trusted = "trusted" if result["verdict"]["trusted"] else f"not trusted: {'; '.join(result['verdict']['reasons'])}"
    return f"{settings.against}, {trusted}\n\n{as_aligned_markdown(rows)}"


def report(settings: LivePlanSettings) -> str:
    """The table of all devices, or what a measurement came to."""
    if settings.against is not None:
        return compare(settings)
    size = size_of(settings)
    plans = {name: LivePlan(settings, size, device) for name, device in devices(settings).items()}
    first, *_ = plans.values()
    lines = [
        f"{settings.model}, {settings.dtype}: weights {size.weight_bytes / 1e9:.2f} GB, "
        f"{size.llm['weight_bytes'] / 1e9:.2f} of them read for a word; {size.token_bytes:,} bytes a token",
        f"a session: {settings.video_tokens} video tokens and {settings.k} words every {settings.step_s:g} s, up to "
        f"{settings.held_tokens:,} tokens, {first.session_bytes / 1e9:.2f} GB",
        f"at most, by a roofline; with a share of {settings.share:g} of it in the last two columns",
        "",
    ]
    by_time = f"in time ({settings.share:g})"
    rows = [("device", "word ms", "words/s", "look ms", "watch ms", "in memory", "in time", by_time, "sessions")]
    for name, best in plans.items():
        expected = replace(best, share=settings.share)
        word, fits = best.word_s(full=0), best.sessions_in_memory > 0
        times = [f"{1000 * seconds:.2f}" for seconds in (best.look_s(), best.watch_s())]
        counts = [
            f"{count:,}" for count in (best.sessions_in_memory, best.sessions_in_time, expected.sessions_in_time)
        ]
        capacity = f"{expected.sessions:,}" if fits else "does not fit"
        rows.append((name, f"{1000 * word:.2f}", f"{1 / word:,.0f}", *times, *counts, capacity))
    return "\n".join([*lines, as_aligned_markdown(rows)])
