"""`python -m tests.record_tokens`: record what every variant and system says, on the tiny random checkpoint.

tests/golden/recorded_tokens.json holds small runs (see tests.helpers.recorded_cases) and the tokens that they said,
and tests/test_recorded.py proves that they still say the same. Record anew only where a change of words is meant, and
say so in the commit: a recording made by the code under test proves nothing about the change before it.
"""

import io
import json
import math
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import torch
import transformers

# ---- what is used of swwatch: modules that move and names that change are followed here, and nowhere else -----------
from swwatch.data.prompt import fill
from swwatch.engine.batch import Batch, Ended
from swwatch.engine.choose import open_session, open_watcher
from swwatch.engine.requests import drive
from swwatch.engine.source import Ask, Order, Step
from swwatch.engine.trace import Said, SimulatedClock, Spoken
from swwatch.engine.turns import TurnSession
from swwatch.policies.choose import Greedy, Sampling, parse_choose
from swwatch.policies.keep import Keep, Window, with_numbers
from swwatch.policies.speak import parse_schedule
from swwatch.rules import turn_positions
from swwatch.rules.cursor import layout
from swwatch.rules.systems import SYSTEMS
from tests.helpers.recorded_cases import CASES
from tests.helpers.tiny import make_tiny, tiny_loader

CHOOSE_NAMES = {"threshold_base": "threshold"}  # as cases call it -> an option of policies.choose
ORDERS = {"pause": Order.PAUSE, "resume": Order.RESUME, "stop": Order.STOP}


def stream_session(loaded, case: dict, prompt: list[int], watcher):
    """A session of one of the six variants."""
    return open_session(
        case["engine"],
        loaded.model,
        prompt,
        schedule=parse_schedule(case["schedule"]),
        choose=Greedy(case["penalty"], case["max_new_tokens"], case.get("stop_early", False)),
        clock=SimulatedClock(now=lambda: 0.0),
        keep=Window(*case["window"]) if case.get("window") else None,
        watcher=watcher,
    )


def turn_session(loaded, case: dict):
    """A session of a system that streams in chat turns."""
    system = SYSTEMS[case["variant"]]
    choose = parse_choose(system.choose)
    if sampling := case.get("sampling"):
        drawn = {"temperature": sampling["temperature"]} if sampling["do_sample"] else {}
        limit, penalty = sampling["max_new_tokens"], sampling["repetition_penalty"]
        choose = (Sampling if drawn else Greedy)(penalty=penalty, max_new_tokens=limit, **drawn)
    more = {CHOOSE_NAMES.get(name, name): value for name, value in case.get("choosing", {}).items()}
    policies = turn_positions.POLICIES
    # recorded before positions of another system were refused; the rules are the same
    anybodys = {name: replace(policy, systems=tuple(SYSTEMS)) for name, policy in policies.items()}
    with mock.patch.dict(policies, anybodys):
        return _turn_session(loaded, case, system, replace(choose, **more))


def _turn_session(loaded, case: dict, system, choose) -> TurnSession:
    return TurnSession(
        loaded.model,
        loaded.turns(system),
        query=case.get("query"),
        previous=case.get("previous", ""),
        keep=keep_of(system, case.get("eviction"), case.get("windows")),
        policy=case.get("policy"),
        choose=choose,
        seconds_per_turn=case.get("steps_per_turn"),
        clock=SimulatedClock(now=lambda: 0.0),
    )


def keep_of(system, eviction: str | None, windows: dict | None) -> Keep:
    """What a case keeps. Windows that a case gives are all that it has: the others hold everything."""
    nothing = {"turns_s": None, "text_sink": None, "text_window": None} if windows else {}
    return with_numbers(system.keep, eviction, nothing | (windows or {}))


def told_alone(model, run) -> list:
    """All that a run tells that is driven by itself."""
    return list(drive(model, run))


def told_together(model, runs: list, at_once: int) -> list[list]:
    """All that each of many runs tells that share a batch, a new one begun as soon as one is over."""
    batch = Batch(model)
    waiting = list(enumerate(runs))
    told = [[] for _ in runs]
    while waiting or len(batch):
        events = []
        while waiting and len(batch) < at_once:
            events += batch.add(*waiting.pop(0))
        events += batch.advance()
        for key, event in events:
            if isinstance(event, Ended) and event.error:
                raise event.error
            told[key].append(event)
    return told


def training_logits(loaded, case: dict, inputs: "Inputs") -> torch.Tensor:
    """(L, V) logits of one forward over a whole sample, as training lays it out."""
    model = loaded.model
    markup = loaded.markup
    tokens = layout(
        case["variant"],
        len(inputs.prompt),
        inputs.merged,
        len(inputs.answer),
        schedule=parse_schedule(case["schedule"]),
        suffix_len=len(markup.suffix),
        header_len=len(markup.header),
        t_per_step=model.t_per_step,
    )
    ids, _ = fill(tokens, markup, inputs.prompt, inputs.answer)
    with torch.no_grad():
        return model(
            input_ids=ids[None],
            position_ids=tokens.position_ids[:, None],
            attention_mask=tokens.visible()[None, None],
            pixel_values_videos=torch.cat([step.pixel_values for step in inputs.steps]),
            video_grid_thw=torch.cat([step.grid_thw for step in inputs.steps]),
        ).logits[0]


# ---- simulated inputs -----------------------------------------------------------------------------------------------


@dataclass
class Inputs:
    """What a session is given: a prompt, steps of random pictures, and an answer for those who are taught one."""

    prompt: list[int]
    answer: list[int]
    steps: list[Step]

    @property
    def merged(self) -> list[tuple[int, int]]:
        """Rows and columns of each step after the merge."""
        return [(int(step.grid_thw[0, 1]) // 2, int(step.grid_thw[0, 2]) // 2) for step in self.steps]


def inputs_of(loaded, case: dict) -> Inputs:
    """The same for every variant and engine, from the case's seed."""
    generator = torch.Generator().manual_seed(case["seed"])
    words = torch.randint(0, 200, (24,), generator=generator).tolist()  # plain bytes, no markup among them
    vision = loaded.model.config.vision_config
    width = 3 * vision.temporal_patch_size * vision.patch_size**2
    schedule = parse_schedule(case.get("schedule", "wait-k:3"))
    count = case["count"]
    steps = []
    for i in range(count):
        rows, columns = case["sizes"][i % len(case["sizes"])]
        grid = torch.tensor([[1, 2 * rows, 2 * columns]])
        pixels = torch.randn(4 * rows * columns, width, generator=generator)
        last = case["kind"] == "stream" and i == count - 1 and not case.get("late_end")
        steps.append(Step(pixels, grid, schedule.arrival_s(i, i + 0.5, 1.0), last))
    return Inputs(words[:4] + [loaded.markup.vision_start], words[4:], steps)


@dataclass
class Arrivals:
    """A source whose steps arrive a few polls after one another, and that tells orders when so many were taken.

    Attributes:
        steps: what is still to come.
        gaps: polls in vain before a step, again and again.
        orders_at: number of steps taken -> orders.
    """

    steps: list[Step]
    gaps: list[int] = field(default_factory=lambda: [0])
    orders_at: dict[int, list] = field(default_factory=dict)
    num_taken: int = 0
    num_polled: int = 0

    @property
    def ended(self) -> bool:
        return self.num_taken == len(self.steps)

    def poll(self) -> Step | None:
        if self.ended:
            return None
        if self.num_polled < self.gaps[self.num_taken % len(self.gaps)]:
            self.num_polled += 1
            return None
        self.num_polled = 0
        self.num_taken += 1
        return self.steps[self.num_taken - 1]

    def wait(self, timeout_s: float | None = None) -> None:
        """Each poll counts as a while."""

    def orders(self) -> list:
        return self.orders_at.pop(self.num_taken, [])


def orders_of(loaded, told: list) -> dict[int, list]:
    """Orders by the number of steps after which they come.

    Args:
        told: pairs of that number and what is told: "pause", "resume", "stop", or a question. A question is a text in
            chat turns, and token ids of its words elsewhere.
    """
    markup = loaded.markup
    orders = {}
    for taken, order in told:
        if isinstance(order, list):
            order = Ask((*markup.suffix, *order, markup.vision_start), "asked")
        else:
            order = ORDERS.get(order) or Ask((), order)
        orders.setdefault(taken, []).append(order)
    return orders


# ---- the cases ------------------------------------------------------------------------------------------------------


def run_case(load_tiny: Callable, case: dict) -> dict:
    """Run a case of tests.helpers.recorded_cases.

    Args:
        load_tiny: (variant, **options) -> a loaded tiny checkpoint.
    Returns:
        What it said, in plain lists.
    """
    loaded = load_tiny(case["variant"], **case.get("load", {}))
    return RUNS[case["kind"]](loaded, case)


def run_stream(loaded, case: dict) -> dict:
    """One stream by itself."""
    watcher = open_watcher(case["engine"], loaded.model)
    try:
        return words_of(told_alone(loaded.model, stream_of(loaded, case, watcher)))
    finally:
        if watcher is not None:
            watcher.close()


def run_batch(loaded, case: dict) -> dict:
    """Many sessions whose requests go through the model together."""
    runs = [stream_of(loaded, session) for session in case["sessions"]]
    told = told_together(loaded.model, runs, case["at_once"])
    return {"sessions": [words_of(events) for events in told]}


def stream_of(loaded, case: dict, watcher=None):
    """The run of a whole stream, of either kind of session."""
    inputs = inputs_of(loaded, case)
    source = Arrivals(inputs.steps, case.get("gaps", [0]), orders_of(loaded, case.get("told", [])))
    if case["kind"] == "turns":
        return turn_session(loaded, case).run(source)
    return stream_session(loaded, case, inputs.prompt, watcher).run(source)


def run_turns(loaded, case: dict) -> dict:
    """A stream in chat turns that is stopped here and there to ask it something, to keep it and to go back."""
    steps = inputs_of(loaded, case).steps
    session = turn_session(loaded, case)
    events, probed, place = [], [], 0
    kept = None
    for action, *what in case["script"]:
        if action == "watch":
            count, told = what
            source = Arrivals(steps[place : place + count], orders_at=orders_of(loaded, told))
            events += told_alone(loaded.model, session.run(source))
            place += count
        elif action == "answer":
            events += told_alone(loaded.model, session.answer(*what))
        elif action == "probe":
            question, beginning = what
            probed.append(int(probed_logits(loaded.model, session, question, tuple(beginning)).argmax()))
        elif action == "keep":
            kept = through_a_file(session.state()), place
        elif action == "go back":
            session = turn_session(loaded, case)
            state, place = kept
            session.restore(state)
        else:
            raise ValueError(f"no action {action!r}")
    return words_of(events) | {"probed": probed}


def probed_logits(model, session, question: str, beginning: tuple[int, ...]) -> torch.Tensor:
    """What would follow a question and the beginning of its answer."""
    found = []

    def asking():
        found.append((yield from session.probe(question, beginning)))

    told_alone(model, asking())
    return found[0]


def through_a_file(state: dict) -> dict:
    """A session's state as it is after it was saved and read."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def run_logits(loaded, case: dict) -> dict:
    """Logits of the training layout, at five places for a few ids."""
    logits = training_logits(loaded, case, inputs_of(loaded, case)).double()
    last = len(logits) - 1
    places = [last * i // 4 for i in range(5)]
    rows = logits[places][:, case["ids"]]
    return {"length": len(logits), "logits": [[round(value, 6) for value in row] for row in rows.tolist()]}


RUNS = {"stream": run_stream, "batch": run_batch, "turns": run_turns, "logits": run_logits}


def words_of(events: list) -> dict:
    """The tokens among events, with the step at which each was said and the newest one in view; and turns, whose
    tokens have the number of their turn in place of both."""
    ids, steps, turns, begun = [], [], [], 0
    for event in events:
        if isinstance(event, Spoken):
            ids.append(event.token_id)
            steps.append((event.step, event.newest_visible_step))
        elif isinstance(event, Said):
            steps[begun:] = [(event.round, event.round)] * (len(steps) - begun)
            begun = len(steps)
            turn = {"round": event.round, "seconds": [event.start_s, event.end_s], "ids": list(event.ids)}
            turns.append(turn | {"words": len(event.words)})
    record = {
        "ids": ids,
        "steps": [step for step, _ in steps],
        "newest_visible_steps": [newest for _, newest in steps],
    }
    return record | ({"turns": turns} if turns else {})


# ---- the recording --------------------------------------------------------------------------------------------------

REPOSITORY = Path(__file__).parents[1]
RECORDING = Path(__file__).parent / "golden" / "recorded_tokens.json"
COMMAND = "python -m tests.record_tokens"
LEAST_GAP = 1e-4  # between the best and the second best: what is closer may be the other way round on another CPU


class Gaps:
    """Notes, while it is entered, by how much each choice among logits was won. It looks at torch alone.

    Attributes:
        smallest: in logits, or in parts of the best one where that is above 1. Where tokens are drawn, the noise that
            the draw adds to their logits is counted in.
    """

    def __init__(self):
        self.smallest = math.inf

    def __enter__(self) -> "Gaps":
        self._argmax = torch.Tensor.argmax
        self._topk = torch.topk
        self._multinomial = torch.multinomial
        gaps = self

        def argmax(scores, *args, **options):
            if scores.is_floating_point():  # chances by noise where tokens are drawn: never below 0
                gaps._note(scores.log() if bool((scores >= 0).all()) else scores)
            return gaps._argmax(scores, *args, **options)

        def topk(scores, k, *args, **options):
            if k == 1:  # all others are out, and what is drawn from one is settled
                gaps._note(scores)
            return gaps._topk(scores, k, *args, **options)

        def multinomial(chances, count, *, generator):
            twin = torch.Generator()
            twin.set_state(generator.get_state())
            # the draw of one is the largest ratio to numbers of an exponential distribution
            noisy = (chances / torch.empty_like(chances).exponential_(1, generator=twin)).log()
            gaps._note(noisy)
            drawn = gaps._multinomial(chances, count, generator=generator)
            if int(drawn) != int(gaps._argmax(noisy)):
                raise AssertionError("torch draws in another way than this expects: see how certain a draw is anew")
            return drawn

        torch.Tensor.argmax = argmax
        torch.topk = topk
        torch.multinomial = multinomial
        return self

    def __exit__(self, *_) -> None:
        torch.Tensor.argmax = self._argmax
        torch.topk = self._topk
        torch.multinomial = self._multinomial

    def _note(self, scores: torch.Tensor) -> None:
        best, second = scores.double().topk(2, dim=-1).values.unbind(-1)
        self.smallest = min(self.smallest, float(((best - second) / best.abs().clamp(min=1)).min()))


def recorded() -> dict:
    """The recording: what it was made with, and its cases, each with what was said."""
    return json.loads(RECORDING.read_text(encoding="utf-8"))


def git(*args: str) -> str:
    return subprocess.run(["git", *args], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.strip()


def run_all(load_tiny: Callable) -> Iterator[tuple[dict, float]]:
    """Each case with its record, and the smallest gap in it.

    Raises:
        SystemExit: a choice was so close that another machine may make another one.
    """
    for case in CASES:
        with Gaps() as gaps:
            record = run_case(load_tiny, case)
        if gaps.smallest < LEAST_GAP:
            sys.exit(f"{case['name']}: a choice was won by {gaps.smallest:.1e} alone: give the case another seed")
        yield {"case": case, "record": record}, gaps.smallest


def main() -> None:
    changed = git("status", "--porcelain", "--", ".", ":!tests/golden")
    if changed:
        sys.exit(f"there are changes that are not committed, and a recording names its commit:\n{changed}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = list(run_all(tiny_loader(make_tiny(Path(folder) / "tiny"))))
    smallest = min(gap for _, gap in made)
    header = {
        "about": "what every variant and system says on the tiny checkpoint of tests/tiny.py, in float32 on a CPU",
        "command": COMMAND,
        "commit": git("log", "-1", "--format=%H", "--", "swwatch"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "smallest_gap": float(f"{smallest:.2g}"),
    }
    lines = [json.dumps(entry, separators=(",", ":")) for entry, _ in made]
    head = json.dumps(header, indent=1)[:-2]
    RECORDING.write_text(head + ',\n "cases": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")
    print(f"{RECORDING.relative_to(REPOSITORY)}: {len(made)} cases, the closest choice was won by {smallest:.1e}")


if __name__ == "__main__":
    main()
