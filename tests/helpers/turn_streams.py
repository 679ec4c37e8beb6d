"""Small random streams in turns, models that say what they are told, and one forward over a whole context."""

from dataclasses import dataclass, field

import torch

from swwatch.data.turns.conversation import Commentary
from swwatch.data.turns.transcript import Transcript
from swwatch.engine.requests import Feed, Request, answer_to, drive
from swwatch.engine.source import Step
from swwatch.engine.trace import Said
from swwatch.engine.turns import TurnSession
from swwatch.policies.choose import Greedy
from swwatch.rules import turn_positions as positions
from swwatch.rules.spans import Part, ids_of
from swwatch.rules.systems import SYSTEMS

GREEDY = Greedy(1.05, 4)
LONG = Greedy(1.0, 500)
GRID = (2, 2)  # rows and columns of random_steps


@dataclass
class Steps:
    """A source of steps that have all arrived."""

    steps: list[Step]
    told: list = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return not self.steps

    def poll(self) -> Step | None:
        return self.steps.pop(0) if self.steps else None

    def wait(self, timeout_s=None) -> None:
        raise AssertionError("all steps are here")

    def orders(self) -> list:
        told, self.told = self.told, []
        return told


def random_steps(loaded, count: int, sizes=((2, 2),), seed: int = 0) -> list[Step]:
    generator, step_s = torch.Generator().manual_seed(seed), loaded.settings.step_s
    dim = loaded.model.config.vision_config.patch_size**2 * 3 * 2
    steps = []
    for i in range(count):
        rows, columns = sizes[i % len(sizes)]
        grid = torch.tensor([[1, 2 * rows, 2 * columns]])
        steps.append(Step(torch.randn(int(grid.prod()), dim, generator=generator), grid, (i + 0.5) * step_s))
    return steps


def begin(loaded, kind=TurnSession, **options) -> TurnSession:
    system = SYSTEMS[loaded.settings.variant]
    return kind(loaded.model, loaded.turns(system), **{"choose": GREEDY} | options)


class Scripted(TurnSession):
    """Says what it is told: for each turn a list of ids, and keeps the logits it would have chosen by."""

    def tell(self, answers: list[list[int]]) -> "Scripted":
        self.chooser.begin_anew = lambda ids: None  # it chooses nothing, and ids may lie beyond a small vocabulary
        self.seen_logits, self.script = [], iter([token for answer in answers for token in answer])
        return self

    def _choose(self, may_stop: bool):
        yield from ()  # nothing is asked
        self.seen_logits.append(self.logits)
        return next(self.script)


def play(session: TurnSession, steps: list[Step], look=None) -> list[Said]:
    """Run a whole stream; `look(session)` is called after every turn."""
    said = []
    for event in drive(session.model, session.run(Steps(list(steps)))):
        if isinstance(event, Said):
            said.append(event)
            if look:
                look(session)
    return said


def forward(loaded, context, policy: str, videos: list[torch.Tensor]) -> torch.Tensor:
    """(L, V) logits of one forward over a context, with the positions of a policy from 0 on."""
    model = loaded.model
    system = SYSTEMS.get(model.settings.variant)  # none: a plain model, which counts as stated
    rule = positions.get(policy) if system is None else positions.of(system, policy)
    where, _ = rule.place(context, 0, model.t_per_step)
    ids = torch.tensor(ids_of(context))
    embeds = model.embed(ids)
    if videos:
        embeds[ids == model.markup.video] = torch.cat(videos)
    mask = torch.ones((1, 1, len(ids), len(ids)), dtype=torch.bool).tril()
    with torch.no_grad():
        hidden = model.model.language_model(
            **model.llm_inputs(embeds[None], (ids == model.markup.video)[None]),
            position_ids=where[:, None],
            attention_mask=mask,
        ).last_hidden_state
        return model.lm_head(hidden[0]).float()


def count_feeds(model, run) -> tuple[int, list]:
    """Rows fed to the LLM by a run, and its other events."""
    fed, events, answer = 0, [], None
    while True:
        try:
            event = run.send(answer)
        except StopIteration:
            return fed, events
        answer = None
        if isinstance(event, Feed):
            fed += len(event.rows)
        if isinstance(event, Request):
            answer = answer_to(model, event)
        else:
            events.append(event)


def words_of(context) -> list[int]:
    return [token for span in context if span.part is Part.PREVIOUS for token in span.ids]


def answers(loaded, count: int, seed: int = 0) -> list[list[int]]:
    """Answers of every form: words and the end, words cut off at the limit (4), silence, an end alone."""
    generator = torch.Generator().manual_seed(seed)
    session = begin(loaded)
    mute = list(session._mute)
    forms = []
    for _ in range(count):
        words = torch.randint(0, 200, (4,), generator=generator).tolist()
        form = int(torch.randint(0, 4, (1,), generator=generator))
        forms.append([words[:1] + mute, words, mute, mute[-1:]][form][: GREEDY.max_new_tokens])
    return forms


def watched(loaded, steps) -> list[torch.Tensor]:
    return [loaded.model.watch_video(step.pixel_values, step.grid_thw) for step in steps]


def told_of(rows, **more) -> Commentary:
    return Commentary("Say it.", Transcript.read(rows).words, **more)


def streamed(loaded, spans, told: Commentary, start_s: float, count: int, asked: dict[int, str], **options):
    """Run a stream over as many seconds that says what the sample's answers say."""
    answers = [list(span.ids) for span in spans if span.part is Part.ANSWER]
    query = told.query_with("none")
    session = begin(loaded, Scripted, query="\n".join([query, *filter(None, [asked.get(0)])]), choose=LONG, **options)
    session.tell(answers)
    steps = random_steps(loaded, count, (GRID,))
    for step in steps:
        object.__setattr__(step, "arrival_s", step.arrival_s + start_s)

    def look(session):
        session.query = asked.get(session.num_rounds, session.query)

    said = play(session, steps, look)
    return session, said
