"""The rules for one FunQA question, and the choice of a split's records."""

import json
import shutil
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.data.annotations import read_jsonl
from swwatch.data.dataset import missing_videos
from swwatch.data.prepare.command import main
from swwatch.data.prepare.funqa import FunQASplit, arrange, prepare_split
from swwatch.data.prepare.funqa_rules import LIMITS, problem_of, record_of, video_id
from swwatch.data.tasks import SUBTASKS
from swwatch.errors import UserError, run
from tests.helpers.pe_video_files import count_words
from tests.helpers.small_clips import write_video


def question(number=0, task="H2", words=20, video="H_A_1_0000_0050.mp4", **changes) -> dict:
    """A question whose answer has `words` words; 15 to 25 pass in a video of 5 s."""
    output = " " + " ".join(f"w{n}" for n in range(words))
    return {
        "instruction": "What is funny? ",
        "visual_input": video,
        "output": output,
        "task": task,
        "ID": f"val_{number}",
    } | changes


class World:
    """A FunQA folder with videos of 5 s (H_A..), 4 s (C_A..), 31 s (M_A..) and whatever a test writes."""

    def __init__(self, root):
        self.root, self.folder, self.output = root, root / "FunQA", root / "funqa_val.jsonl"
        for name, seconds in {"humor/H_A": 5, "creative/C_A": 4, "magic/M_A": 31, "magic/M_B": 30}.items():
            write_video(self.folder / f"val_{name}_1_0000_0050.mp4", seconds, seed=1, fps=2, size=(28, 28))

    def prepare(self, questions, **options):
        path = self.folder / "annotation_with_ID" / "funqa_val.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(questions if isinstance(questions, str) else json.dumps(questions))
        options = {"max_bad_fraction": 1.0, "limits": LIMITS} | options
        return prepare_split(
            FunQASplit("val", path, self.output, self.folder, self.root, "data", **options), count_words
        )

    def rejects(self):
        lines = (self.root / "funqa_val_rejects.jsonl").read_text().splitlines()
        return {item["where"].split()[-1]: item for item in map(json.loads, lines)}


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "data")


REASONS = [
    ("not_an_object", "text"),
    ("task_bad", question(task=None)),
    ("task_H1", question(task="H1")),
    ("task_C5", question(task="C5", output="12")),
    ("instruction_bad", question(instruction=" ")),
    ("output_bad", question(output=[3, 9])),
    ("output_bad", question(output="\ud800")),
    ("visual_input_bad", question(video="../H_A.mp4")),
    ("visual_input_bad", question(video="X_A.mp4")),
    ("visual_input_bad", question(video="")),
    ("ID_bad", question(ID=[1])),
    ("duplicate_ID", question(0, output="the ID of another")),
    ("video_missing", question(100, video="H_none.mp4")),
    ("video_unreadable", question(101, video="H_broken.mp4")),
    ("too_short", question(102, "C3", video="C_A_1_0000_0050.mp4")),
    ("too_long", question(103, "M2", 100, video="M_A_1_0000_0050.mp4")),
    ("too_few_tokens", question(104, words=14)),
    ("too_many_tokens", question(105, words=26)),
    ("caption_empty", question(106, output=" ")),
]


def test_every_reason_is_counted_and_every_question_left_out_is_listed(world):
    (world.folder / "val_humor/H_broken.mp4").write_bytes(b"no video")
    report = world.prepare([question(0), *(item for _, item in REASONS)])
    assert (report["entries"], report["kept"], report["written"]) == (len(REASONS) + 1, 1, 1)
    assert report["dropped"] == dict(Counter(reason for reason, _ in REASONS))
    assert [world.rejects()[str(n)]["reason"] for n in range(1, len(REASONS) + 1)] == [r for r, _ in REASONS]
    assert "4 s" in world.rejects()["15"]["detail"] and "H_none.mp4" in world.rejects()["13"]["detail"]
    assert json.loads((world.root / "funqa_val_report.json").read_text()) == report


@pytest.mark.parametrize("words", [15, 25])
def test_the_bounds_are_inclusive_and_no_opening_words_are_asked_for(world, words):
    assert world.prepare([question(words=words)])["kept"] == 1
    assert world.prepare([question(task="M3", words=90, video="M_B_1_0000_0050.mp4")])["kept"] == 1, "30 s, 3 a second"


def test_a_record_is_the_official_question_and_what_training_and_evaluation_read(world):
    world.prepare([question(7, "H3", fold=2)])
    (record,) = read_jsonl(world.output)
    assert record == question(7, "H3", fold=2) | {
        "video_id": "H3-val_7",
        "video_path": "data/FunQA/val_humor/H_A_1_0000_0050.mp4",
        "video_duration_in_s": 5.0,
        "human_caption": question()["output"].strip(),
        "question": "What is funny?",
    }
    assert missing_videos([record], world.output) == (1, []), "the path is found from the jsonl"


def test_a_video_is_found_as_the_archives_unpack_it(world):
    for place in ("val/val_humor", "videos/val_humor"):
        target = world.folder / place / "H_new.mp4"
        target.parent.mkdir(parents=True)
        shutil.copy(world.folder / "val_humor/H_A_1_0000_0050.mp4", target)
        world.prepare([question(video="H_new.mp4")])
        assert read_jsonl(world.output)[0]["video_path"] == f"data/FunQA/{place}/H_new.mp4"
        target.unlink()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not valid JSON.*cut short"),
        ("{}", "a list of questions is wanted, this is dict"),
        ("[]", "a list of questions is wanted, this is empty"),
        ("\ud800", "not UTF-8"),
    ],
)
def test_annotations_that_are_no_list_are_an_error_that_names_the_file(world, content, message):
    path = world.folder / "annotation_with_ID" / "funqa_val.json"
    path.parent.mkdir()
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=f"funqa_val.json: {message}"):
        prepare_split(FunQASplit("val", path, world.output, world.folder, world.root, "data", LIMITS), count_words)
    assert not world.output.exists()


def test_more_bad_videos_than_allowed_stop_the_run_and_are_listed(world):
    questions = [question(n) for n in range(9)] + [question(9, video="H_none.mp4")]
    with pytest.raises(UserError, match=r"1 of 10 questions cannot be used \(1 video_missing\).*H_none.mp4"):
        world.prepare(questions, max_bad_fraction=0.05)
    assert not world.output.exists() and world.rejects()["9"]["reason"] == "video_missing"
    assert world.prepare(questions, max_bad_fraction=0.1)["kept"] == 9
    unwanted = [question(n, "H1", video="H_none.mp4") for n in range(20)]
    assert world.prepare([question(99), *unwanted], max_bad_fraction=0)["kept"] == 1, "nobody asks for their videos"


def test_ids_do_not_depend_on_the_place_and_tell_the_tasks_of_a_video_apart():
    assert video_id(question(4, "C2")) == "C2-val_4" != video_id(question(4, "C3"))
    without = [question(0, words=n, ID=None) for n in (20, 21)]
    assert video_id(without[0]).startswith("H2-H_A_1_0000_0050-") and video_id(without[0]) != video_id(without[1])
    assert video_id(dict(reversed(without[0].items()))) == video_id(without[0])
    assert video_id(question(5, ID=12)) == "H2-12"


def test_a_question_without_an_id_counts_once_however_often_it_is_there(world):
    report = world.prepare([question(ID=None), question(ID=None), question(words=21, ID=None)])
    assert report["kept"] == 2 and report["dropped"] == {"duplicate_ID": 1}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("instruction", "visual_input", "output", "task", "ID"), JSON))
)
def test_any_annotation_has_either_a_problem_or_an_id(changes):
    item = question() | changes
    if problem_of(item) is None:
        assert video_id(item) and record_of(item, "x.mp4", 5.0)["human_caption"] == item["output"].strip()


def arranged(kept, **options):
    return arrange(FunQASplit("test", "a", "b", "c", "d", "e", LIMITS, **options), kept)


def test_any_first_part_of_a_balanced_split_holds_the_tasks_alike():
    kept = [{"video_id": f"{task}-{n}", "task": task} for task in SUBTASKS for n in range(50)]
    order = arranged(kept, balanced=True)
    assert sorted(r["video_id"] for r in order) == sorted(r["video_id"] for r in kept)
    for part in (6, 60, 100):
        counts = Counter(record["task"] for record in order[:part]).values()
        assert max(counts) - min(counts) <= 1
    assert order == arranged(kept[::-1], balanced=True) != arranged(kept, balanced=True, seed=1)


@given(st.integers(1, 40), st.integers(0, 3))
def test_a_sample_is_a_part_of_any_larger_one_and_keeps_the_order(size, seed):
    kept = [{"video_id": f"H2-{n}", "task": "H2"} for n in range(40)]
    chosen, larger = (arranged(kept, sample=n, seed=seed) for n in (size, min(size + 5, 40)))
    assert len(chosen) == size and [r for r in kept if r in chosen] == chosen
    assert all(record in larger for record in chosen)


def test_a_sample_larger_than_what_passes_is_an_error():
    with pytest.raises(UserError, match="only 40 test records pass"):
        arranged([{"video_id": f"H2-{n}", "task": "H2"} for n in range(40)], sample=41)


def test_flags_of_shards_are_refused_and_told_what_takes_their_place(capsys):
    for flags in (["--part", "1/2"], ["--part=1/2"], ["--join"], ["--cluster", "local"]):
        assert run(main, ["--task", "funqa", *flags]) == 2
        printed = capsys.readouterr().err
        assert flags[0].partition("=")[0] in printed and "--workers" in printed
