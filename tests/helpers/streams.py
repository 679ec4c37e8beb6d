"""Small random streams, and a session that is told what to say, for comparing engines with one full forward."""

import copy
from dataclasses import dataclass, replace

import torch

from swwatch.data.batch import stack_rows
from swwatch.data.prompt import fill
from swwatch.engine.requests import drive
from swwatch.engine.session import Session
from swwatch.engine.source import Ask, Order, Step
from swwatch.engine.trace import Spoken
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import WaitK
from swwatch.rules.cursor import layout
from swwatch.rules.patch import Patch
from swwatch.rules.schedule import Now, Planned, Schedule
from swwatch.rules.visibility import CARRIER
from tests.helpers.serial import SerialSession


@dataclass
class Stream:
    """A prompt, one random patch a step (grids before the merge), and an answer."""

    prompt: list[int]
    pixels: list[torch.Tensor]
    grids: list[torch.Tensor]
    answer: list[int]

    @property
    def merged(self) -> list[tuple[int, int]]:
        return [(int(g[0, 1]) // 2, int(g[0, 2]) // 2) for g in self.grids]


class SaidAt(WaitK):
    """So many words at given steps: what a policy decided, as a plan."""

    def __init__(self, at: dict[int, int]):
        object.__setattr__(self, "at", at)
        object.__setattr__(self, "k", 1)

    def budget(self, now: Now) -> int:
        return self.at.get(now.step, 0)


def at_fps(loaded, fps: float):
    """The same weights, watching at another rate."""
    model = copy.copy(loaded.model)
    model.settings = replace(model.settings, fps=float(fps))
    return replace(loaded, model=model, settings=model.settings)


def random_stream(loaded, sizes: list[tuple[int, int]], prompt_len=5, answer_len=20, seed=0) -> Stream:
    generator = torch.Generator().manual_seed(seed)
    vocabulary = 200  # plain byte tokens, no markup among them
    grids = [torch.tensor([[1, 2 * r, 2 * c]]) for r, c in sizes]
    dim = loaded.model.config.vision_config.patch_size**2 * 3 * 2
    pixels = [torch.randn(int(g.prod()), dim, generator=generator) for g in grids]
    words = torch.randint(0, vocabulary, (prompt_len + answer_len,), generator=generator).tolist()
    begins = [] if loaded.markup.stamp else [loaded.markup.vision_start]
    prompt = words[: prompt_len - len(begins)] + begins
    return Stream(prompt, pixels, grids, words[prompt_len:])


class Told(SerialSession):
    """Says `answer` whatever the logits are, and keeps them: teacher forcing through the streaming path."""

    def tell(self, answer: list[int]) -> "Told":
        self.answer, self.seen_logits = answer, []
        return self

    def _choose(self, may_stop: bool):
        yield from ()  # nothing is asked
        self.seen_logits.append(self.logits)
        return self.answer[len(self.seen_logits) - 1]


class ToldSession(Session):
    """The same as a coroutine."""

    tell, _choose = Told.tell, Told._choose


class Paced:
    """A source whose step i arrives `gaps[i]` polls after the one before it: how fast a session asks decides nothing.

    Orders are told as soon as so many steps were taken: {1: [Order.PAUSE]} before the second step.
    """

    def __init__(self, stream: Stream, gaps: list[int] | None = None, orders: dict | None = None, late_end=False):
        n = len(stream.pixels)
        self.steps = [Step(stream.pixels[i], stream.grids[i], i + 0.5, i == n - 1 and not late_end) for i in range(n)]
        self.gaps, self.told, self.taken, self.polls = gaps or [0] * n, dict(orders or {}), 0, 0

    @property
    def ended(self) -> bool:
        return self.taken == len(self.steps)

    def poll(self) -> Step | None:
        if self.ended:
            return None
        if self.polls < self.gaps[self.taken]:
            self.polls += 1
            return None
        self.taken, self.polls = self.taken + 1, 0
        return self.steps[self.taken - 1]

    def wait(self, timeout_s: float | None = None) -> None:
        """Each poll counts as a while."""

    def orders(self) -> list[Ask | Order]:
        return self.told.pop(self.taken, [])


def asking(loaded, at: dict[int, list[int]]) -> dict:
    """Orders of a Paced source: questions of these words, heard once so many steps were taken."""
    suffix, start = loaded.markup.suffix, loaded.markup.vision_start
    return {step: [Ask((*suffix, *ids, start), str(ids))] for step, ids in at.items()}


def spoken_by(model, session, source) -> list[tuple]:
    """The tokens of a run on its own, without the moment of their emission."""
    return plain(drive(model, session.run(source)))


def logits_under(loaded, keep: str, orders: dict | None = None) -> torch.Tensor:
    """(20, V) what a told answer about six steps was chosen from, under a policy of KEEP."""
    stream = random_stream(loaded, [(1, 2), (2, 2)] * 3)
    session = ToldSession(loaded.model, stream.prompt, keep=keep, choose=Greedy(1.0, 20)).tell(stream.answer)
    spoken_by(loaded.model, session, Paced(stream, orders=orders))
    return torch.stack(session.seen_logits)


def plain(events) -> list[tuple]:
    """The tokens among events, without the moment of their emission."""
    tokens = [event for event in events if isinstance(event, Spoken)]
    return [(token.step, token.token_id, token.newest_visible_step, token.t_frame_s) for token in tokens]


def fed_positions(session) -> list[tuple]:
    """Positions of all that is in a session's cache, sorted."""
    fed = torch.cat([part.position_ids for part in session.cache.tokens.values()], dim=1)
    return sorted(map(tuple, fed.T.tolist()))


def play(session, stream: Stream, late_end: bool = False) -> list:
    """Push all steps as they come; return the spoken tokens."""
    spoken, n, step_s = [], len(stream.pixels), session.model.settings.step_s
    for i in range(n):
        last = i == n - 1 and not late_end
        spoken += session.watch(stream.pixels[i], stream.grids[i], (i + 0.5) * step_s, last)
    return spoken + list(session.close())


def full_forward(
    loaded,
    stream: Stream,
    schedule: Schedule,
    late_end: bool = False,
    asks: dict[int, list[int]] | None = None,
    thoughts: tuple[Planned, list[int]] | None = None,
) -> tuple[torch.Tensor, object]:
    """Logits that predict each token that was thought, and then each of the answer, from one forward with the training
    layout; and that layout.

    asks: step -> ids of a further question before its patch. thoughts: what is thought when, and its ids.
    """
    asks = asks or {}
    model = loaded.model
    merged = model.markup.announced(Patch(*grid) for grid in stream.merged + [(0, 0)] * late_end)
    tokens = layout(
        model.settings.variant,
        len(stream.prompt),
        merged,
        len(stream.answer),
        schedule=schedule,
        suffix_len=len(model.markup.suffix),
        header_len=len(model.markup.header),
        t_per_step=model.t_per_step,
        step_s=model.settings.step_s,
        questions={step: len(ids) for step, ids in asks.items()},
        thoughts=thoughts and thoughts[0],
        note_len=len(model.markup.note),
    )
    asked = sum((asks[step] for step in sorted(asks)), [])
    ids, labels = fill(tokens, model.markup, stream.prompt + asked, stream.answer, thoughts[1] if thoughts else ())
    carried = model.settings.carriers is not None
    mask = {"columns": stack_rows([[tokens]])[1]} if carried else {"attention_mask": tokens.visible()[None, None]}
    with torch.no_grad():
        logits = model(
            input_ids=ids[None],
            position_ids=tokens.position_ids[:, None],
            pixel_values_videos=torch.cat(stream.pixels),
            video_grid_thw=torch.cat(stream.grids),
            **mask,
        ).logits[0]
    if carried:
        logits = logits[tokens.carried().stream != CARRIER]
    return logits[:-1][labels[1:] != -100], tokens
