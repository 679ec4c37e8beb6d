"""Does thinking help? Arms with and without thoughts, fine-tuned alike from one BASE, asked the same in mid-stream.

Continues where it was stopped. All bounded arms have room for the same number of tokens of video and thoughts.
"""

from dataclasses import dataclass
from pathlib import Path

from swwatch.paths import CONFIGS
from swwatch.study.commands import as_flags
from swwatch.study.compare import Comparison, compare
from swwatch.study.jobs import Job
from swwatch.study.policy_plan import PolicyPlan, Row, Test
from swwatch.toy.levels import SEGMENT_S

CONFIG = CONFIGS / "train" / "toy_turns.yaml"
CLIPS = 200  # to fine-tune on
ROUNDS = 3  # how often each kind of question is asked of a clip
VIEW_S = (
    26  # seconds in view of bounded arms without thoughts, of 4 tokens each: what others share with their thoughts
)
BUDGET = 4 * VIEW_S
ARMS_TABLE = "arm"
SHARES = ("about now, %", "first colour, %", "third colour, %", "how many, %", "about the past, %", "out of view, %")


@dataclass(frozen=True)
class Model:
    """What is trained: a variant, on which file of the toy world's questions, with which flags."""

    variant: str
    data: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arm:
    """One way to remember.

    Attributes:
        model: of MODELS; keep, think: of its sessions, think None in chat turns.
        without: arms without thoughts that it is compared with, if it thinks.
    """

    model: str
    keep: str
    about: str
    think: str | None = None
    without: tuple[str, ...] = ()


NOTES = f"notes:4:every_s=4:limit=32:sink=16:window={BUDGET - 16 - 4 * 8}"
SEGMENT, PACE = tuple(as_flags(seconds_per_turn=SEGMENT_S)), tuple(as_flags(schedule="wait-k:4"))
MODELS = {
    "streamingvlm": Model("streamingvlm", "asked"),
    "vst": Model("vst", "noted", SEGMENT),
    "tww": Model("tww", "noted", SEGMENT),
    "group": Model("group", "watched", PACE),
    "group-thinks": Model("group", "watched", (*PACE, *as_flags(think=NOTES))),
}
ARMS = {
    "all": Arm("streamingvlm", "all", "chat turns, everything in view: a ceiling"),
    "recent": Arm("streamingvlm", f"recent:{VIEW_S}", "SimpleStream: the newest seconds, read anew"),
    "window": Arm("streamingvlm", f"sink_window:{VIEW_S}:turns_s={VIEW_S}", "the newest seconds, as they were read"),
    "recompute": Arm("streamingvlm", f"recompute:{VIEW_S}:turns_s={VIEW_S}", "the same window, read anew every turn"),
    "segment": Arm("vst", "thoughts:0", "notes per segment, forgotten: the newest segment alone"),
    "notes": Arm(
        "vst",
        "thoughts:1:first=1",
        "notes per segment: the newest segment, the first and the newest note",
        without=("recent", "segment"),
    ),
    "notes-all": Arm("tww", "all", "notes per segment, everything in view", without=("all",)),
    "group-all": Arm("group", "all", "a narration, everything in view: a ceiling", "off"),
    "group-window": Arm("group", f"window:{VIEW_S}", "the newest seconds, as they were read", "off"),
    "parallel": Arm("group-thinks", "window:8", f"thoughts in parallel, `{NOTES}`", NOTES, ("group-window",)),
    "parallel-all": Arm("group-thinks", "all", "the same, everything in view", NOTES, ("group-all",)),
}
TESTS = {
    test.name: test
    for test in (
        Test("asked, count", "count", "", (ARMS_TABLE,), 60, True, shares=SHARES),
        Test("asked, minutes", "ten_minutes", "", (ARMS_TABLE,), 120, True, shares=SHARES),
    )
}


class ThinkingPlan(PolicyPlan):
    """One size of this comparison."""

    tests = TESTS

    def rows(self) -> list[Row]:
        return [(test, ARMS_TABLE, arm) for test in TESTS for arm in ARMS]


PLANS = {
    "quick": ThinkingPlan("quick", (0,), steps=100, clips=3, seconds=60),
    "full": ThinkingPlan("full", (0, 1, 2), steps=300, clips=6, seconds=60),
}


def main(argv: list[str]) -> int:
    return compare(THINKING, argv, __doc__)


def jobs_of(plan: PolicyPlan, folder: Path, base: Path) -> list[Job]:
    """Clips to train on and to be asked about, and every model of every seed."""
    train, jobs = folder / "train", []
    for data, size in [(train, {"clips": CLIPS, "test_clips": 1, "level": "half_minute"})] + [
        (folder / f"{test.world}-{plan.clips}", {"clips": 0, "test_clips": plan.clips, "level": test.world})
        for test in TESTS.values()
    ]:
        jobs.append(Job(data.name, ("toy", "data", str(data), *as_flags(**size, workers=1))))
    jobs.append(Job("questions", ("toy", "questions", str(train)), ("train",)))
    same = {"config": CONFIG, "model_path": base, "max_steps": plan.steps, "warmup": plan.steps // 10, "batch_size": 4}
    for seed in plan.seeds:
        for name, model in MODELS.items():
            own = {"variant": model.variant, "train_data": train / f"{model.data}_train.jsonl", "seed": seed}
            flags = as_flags(**same, **own, output_dir=folder / f"{name}-{seed}")
            jobs.append(Job(f"{name}-{seed}", ("train", *flags, *model.flags), ("questions",)))
    return jobs


def run(loaded, row: Row, record: dict, video: Path, seconds: int) -> dict:
    """One clip, watched by an arm."""
    from swwatch.study.policy_runs import ask_questions

    arm = ARMS[row[2]]
    choose = "greedy:1:max_new_tokens=32"  # of a note, or an answer
    if arm.think is not None:
        choose += ":stop_early=true"  # a narration is silent until it is asked, and after its answer
    return ask_questions(loaded, record, video, seconds, arm.keep, arm.think, choose, ROUNDS)


THINKING = Comparison(
    "thinking", PLANS, jobs_of, lambda row: ARMS[row[2]].model, run, page="swwatch.study.thinking_page"
)
