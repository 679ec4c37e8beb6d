"""P12: however long a stream is, a policy that is bounded holds as much late as early, and a step costs as much.

Nothing is judged by a time: what a step does is counted. `pytest -m long` runs ten thousand seconds of each; with
-o junit_family=xunit1 --junitxml=FILE the figures are in that file: properties of each test, CPU times among them.
"""

import time

import pytest
import torch

from swwatch.engine.session import Session
from swwatch.engine.source import FileSource, Step
from swwatch.engine.trace import Said, SimulatedClock, Watched
from swwatch.model.loading import load
from swwatch.policies.choose import Greedy
from swwatch.policies.see import SEE, parse_see
from swwatch.policies.speak import SPEAK, parse_schedule
from swwatch.policies.speak.policy import PROBE, Deciding
from swwatch.rules.variants import Speaks
from swwatch.toy.checkpoint import make_checkpoint
from tests.helpers.keeps import SMALL, kept
from tests.helpers.streams import asking, random_stream
from tests.helpers.turn_streams import Scripted, begin, random_steps
from tests.helpers.work import Counting, Work, counted, held

PERIOD = 12  # steps in which all that comes again does so: 4 pictures, windows of 2 and 3 seconds
EARLY = 4 * PERIOD  # all is full by then
LONG = 10_000
LATE_S = 100_000.0  # when a stream of turns begins, so that its labels have as many digits early as late
SECONDS = pytest.mark.parametrize("seconds", [EARLY + 2 * PERIOD + 4, pytest.param(LONG, marks=pytest.mark.long)])

SEEING = [str(parse_see(name)) for name, kind in SEE.items() if kind.drops]
DECIDING = {"change": "change:2:share=0.4:steps=9", "pace": "pace:1:most=2", "gate": "gate:2", "head": "head:2"}
NARRATIONS = [
    *((variant, {"keep": keep}) for variant, keep in kept(Speaks.PARALLEL, bounded=True)),
    *(("group", {"keep": SMALL["window"], "see": see}) for see in SEEING),
    *(("gap", {"keep": SMALL["window"], "schedule": schedule}) for schedule in DECIDING.values()),
]


def test_every_row_of_see_and_speak_that_remembers_is_tried():
    """A probe reads words anew that a window lets go: that one keeps all, and is refused with it."""
    deciding = [kind for kind in SPEAK.values() if issubclass(kind, Deciding)]
    assert list(DECIDING) == [kind.name for kind in deciding if PROBE not in kind.needs]


@pytest.fixture(scope="module")
def tiniest(tmp_path_factory):
    sizes = {"hidden": 16, "layers": 1, "heads": 1, "kv_heads": 1, "vision_depth": 1, "vision_hidden": 16}
    path, folder = make_checkpoint(tmp_path_factory.mktemp("s") / "model", **sizes, vision_heads=1), {}

    def loaded(variant: str, **options):
        key = (variant, *options.items())
        folder[key] = folder.get(key) or load(path, variant=variant, device="cpu", **options)
        return folder[key]

    return loaded


class Meter:
    """Told when a step is over: counts the work of PERIOD steps early and late, and what is held at each of them."""

    def __init__(self, session, seconds: int):
        self.session, self.early = session, max(EARLY, seconds // 10)
        self.late = seconds - 4  # the last turn of all may be another one
        self.counting, self.works, self.sizes = Counting(lines=seconds == LONG), {}, {self.early: [], self.late: []}
        self.timed, self.cpu_s = {end: (end // 4, end - PERIOD - 1) for end in self.sizes}, {}

    def step(self, number: int) -> None:
        if any(number in span for span in self.timed.values()):
            self.cpu_s[number] = time.process_time()
        for end, sizes in self.sizes.items():
            if number == end - PERIOD:
                self.counting.begin()
            elif number == end:
                self.works[end] = self.counting.end()
            if end < number <= end + 3:
                sizes.append((self.session.cache.nbytes, self.session.cache.parking.nbytes, held(self.session)))

    def check(self, record, more: float = 0.0) -> None:
        """Nothing was more late than early. more: by this share, where it depends on what is seen."""
        early, late = (self.works[end] for end in (self.early, self.late))
        for name, end in (("early", self.early), ("late", self.late)):
            first, last = self.timed[end]
            record(f"{name}_bytes_device_host_all", zip_max(self.sizes[end]))
            record(f"{name}_cpu_ms_a_step", 1000 * (self.cpu_s[last] - self.cpu_s[first]) / (last - first))
        for name in Work.__dataclass_fields__:
            ours, theirs = (getattr(work, name) for work in (late, early))
            assert ours <= theirs * (1 + (more or 0.01 * (name == "lines"))), (name, early, late)
        for name, theirs, ours in zip(("device", "host", "all"), *map(zip_max, self.sizes.values()), strict=True):
            assert ours <= theirs * (1 + more), (name, self.sizes)


def zip_max(sizes: list[tuple[int, ...]]) -> list[int]:
    return [max(column) for column in zip(*sizes, strict=True)]


def pictures(loaded) -> list[torch.Tensor]:
    """(8, D) each, of two cells: one is new every second, one every other second; one picture comes twice."""
    drawn = random_stream(loaded, [(1, 2)] * 4).pixels
    return [torch.cat([drawn[i // 2][:4], drawn[i - (i == 3)][4:]]) for i in range(4)]


@SECONDS
@pytest.mark.parametrize(("variant", "policies"), NARRATIONS)
def test_p12_a_narration_holds_and_does_as_much_late_as_early(tiniest, variant, policies, seconds, record_property):
    """Some questions come early."""
    options = dict(policies)
    stored = {"see": options.pop("see")} if "see" in options else {}
    schedule = options["schedule"] = parse_schedule(options.get("schedule", "wait-k:1"))
    if schedule.learned:
        stored["schedule"] = str(schedule)
    loaded = tiniest(variant, **stored)
    stream, told = random_stream(loaded, [(1, 2)]), asking(loaded, {n: [3, 4] for n in (5, 10, 15)})
    seen, clock, seconds = pictures(loaded), SimulatedClock(now=lambda: 0.0), seconds + 10
    steps = (Step(seen[i % 4], stream.grids[0], i + 0.5) for i in range(seconds))
    source = FileSource(steps, lambda step: step, clock)
    session = Session(loaded.model, stream.prompt, choose=Greedy(1.0, None), clock=clock, **options)
    meter, number = Meter(session, seconds - 10), 0
    source.orders = lambda: told.pop(number, [])
    for event in counted(loaded.model, session.run(source), meter.counting):
        if isinstance(event, Watched):
            number = event.step
            meter.step(number)
        if number == seconds - 2:
            break
    meter.check(record_property)
    assert session.cache.parking.nbytes <= 0.01 * 2**20 and len(session._forgetting.said_ids) < 20


@SECONDS
@pytest.mark.parametrize(("variant", "keep"), kept(Speaks.TURNS, bounded=True))
def test_p12_chat_turns_hold_and_do_as_much_late_as_early(tiniest, variant, keep, seconds, record_property):
    """Every turn says as much."""
    loaded, seconds = tiniest(variant), seconds + 10
    drawn = [step.pixel_values for step in random_steps(loaded, 4)]
    grid = random_steps(loaded, 1)[0].grid_thw
    session = begin(loaded, Scripted, keep=keep).tell([[1, 2, *begin(loaded)._mute]] * seconds)
    steps = (Step(drawn[i % 4], grid, LATE_S + i + 0.5) for i in range(seconds))
    source, meter = FileSource(steps, lambda step: step, session.clock), Meter(session, seconds - 10)
    for event in counted(loaded.model, session.run(source), meter.counting):
        if isinstance(event, Said):
            session.seen_logits.clear()  # which no session but a scripted one keeps
            meter.step(event.round)
            session.query = "Who" if event.round in (5, 12) else None
    meter.check(record_property)
    assert session.cache.parking.nbytes <= 0.01 * 2**20
