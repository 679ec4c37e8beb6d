"""Dialogues: chains and paths of questions, with true history or own, and a judge's scales."""

import json

import pytest

from swwatch.errors import UserError
from swwatch.evaluate.judge import command as judge
from swwatch.evaluate.quiz import command, tasks
from swwatch.evaluate.quiz.asking import Answered
from swwatch.evaluate.quiz.items import Item, Round
from swwatch.evaluate.quiz.rounds import ask_all
from swwatch.evaluate.run_files import read_lines
from swwatch.evaluate.tasks import FOLDER
from swwatch.judge.rubric import Malformed, load_rubric
from swwatch.judge.scales import read, reader
from tests.helpers.judge_server import Endpoint, tagged

SCALES = [
    "semantic accuracy",
    "contextual coherence",
    "logical consistency",
    "temporal understanding",
    "informational completeness",
    "overall",
]
ROUNDS = (Round("Who?", "A man.", 4.0), Round("Where?", "At home.", 4.0), Round("Then?", "He left.", 9.0))


@pytest.mark.parametrize(("own", "told"), [(False, "A man."), (True, "said 1")])
def test_what_was_answered_before_stands_in_front_true_or_own(own, told):
    seen, form = [], tasks.get("svbench-dialogue").form()

    def ask(item: Item) -> Answered:
        seen.append(item)
        return Answered(f"said {len(seen)}", {}, {}, 2, (0, item.end_s), took_s=0.5)

    item = Item("k", "v", ("v.mp4",), "", (), "", "g", end_s=9.0, rounds=ROUNDS, own_history=own)
    got = ask_all(item, ask, 1.0, form)
    assert [one.end_s for one in seen] == [4, 4, 9] and got.took_s == 1.5
    assert "before" not in seen[0].prompt and seen[0].prompt.endswith("\nWho?")
    assert f"before:\nQuestion: Who?\nAnswer: {told}\nAnswer in a sentence" in seen[1].prompt
    assert seen[2].prompt.count("Question:") == 2 and seen[2].prompt.endswith("\nThen?")
    assert [one["result"] for one in got.more["rounds"]] == ["said 1", "said 2", "said 3"]
    assert got.said == "said 1\nsaid 2\nsaid 3"
    error = UserError("too early")
    assert ask_all(item, lambda one: error, 1.0, form) is error


def chain(*questions: str, end_s: float) -> dict:
    told = {"questions": list(questions), "answers": [f"{question}!" for question in questions]}
    return {"chain": told, "qac_timestamps_start": 0, "qac_timestamps_end": end_s}


def test_chains_and_paths_are_read_as_they_lie(tmp_path):
    """Of three chains, the middle one empty; links lead from a question of one chain to one of the next."""
    (tmp_path / "Dialogue/Dialogue_EN").mkdir(parents=True)
    (tmp_path / "Con/Con_EN").mkdir(parents=True)
    chains = [chain("a0", "a1", "a2", end_s=5), {}, chain("b0", "b1", end_s=9), chain("c0", "c1", end_s=12)]
    links = [{"relationship": {}}, {"relationship": {}}]
    links.append({"relationship": {"chainBefore": [1, 0], "chainAfter": [0, 1]}})
    for folder, rows in (("Dialogue", chains), ("Con", links)):
        (tmp_path / folder / f"{folder}_EN" / "v.json").write_text(json.dumps(rows))
    items = tasks.get("svbench-dialogue").items(tmp_path)
    assert [(item.key, item.end_s) for item in items] == [("v/0", 5), ("v/2", 9), ("v/3", 12)]
    assert items[1].rounds == (Round("b0", "b0!", 9), Round("b1", "b1!", 9))
    (hops,) = tasks.get("svbench-streaming").items(tmp_path)
    assert [one.question for one in hops.rounds] == ["a0", "a1", "a2", "b0", "c1"] and hops.end_s == 12
    for wrong, said in ({"chainBefore": ["x"]}, "link is no number"), (3, "relationship is no object"):
        (tmp_path / "Con/Con_EN/v.json").write_text(json.dumps([{"relationship": wrong}]))
        with pytest.raises(UserError, match=said):
            tasks.get("svbench-streaming").items(tmp_path)

    (tmp_path / "Streaming/Streaming_EN").mkdir(parents=True)
    path = {"questions": ["b1", "c0"], "answers": ["x", "y"], "timestamps": [[0, 9], [9, 12]]}
    (tmp_path / "Streaming/Streaming_EN/v.json").write_text(json.dumps([path]))
    (told,) = tasks.get("svbench-streaming").items(tmp_path)
    assert told.rounds == (Round("b1", "x", 9), Round("c0", "y", 12))

    (tmp_path / "Meta/Meta_EN").mkdir(parents=True)
    (tmp_path / "Meta/Meta_EN/meta_test.csv").write_text("Video_Name,Path_of_Video\nv,./SVBench/Video/v.mp4\n")
    assert tasks.get("svbench-dialogue").items(tmp_path)[0].places[:3] == (
        "SVBench/Video/v.mp4",
        "Video/v.mp4",
        "v.mp4",
    )
    (tmp_path / "Streaming/Streaming_EN/v.json").write_text(json.dumps([path | {"timestamps": []}]))
    with pytest.raises(UserError, match="2 questions have 2 answers and 0 timestamps"):
        tasks.get("svbench-streaming").items(tmp_path)
    with pytest.raises(UserError, match="holds no json files of SVBench"):
        tasks.get("svbench-dialogue").items(tmp_path / "Meta")


def test_grades_of_all_scales_are_read_or_the_reply_is_refused():
    names = SCALES
    grades = dict.fromkeys(names, 7) | {"temporal understanding": -1}
    assert read(f"so: {json.dumps(grades | {'why': 'well'})}", names) == (
        grades | {"temporal understanding": None},
        "well",
    )
    for wrong in ({}, {"overall": 7}, grades | {"overall": 11}, grades | {"overall": "7"}, grades | {"overall": True}):
        with pytest.raises(Malformed):
            read(json.dumps(wrong), names)
    criterion = load_rubric(judge.GradeSettings.rubric).get("dialogue")
    assert list(criterion.scales) == names and reader(criterion)(json.dumps(grades))[0]["overall"] == 7


def test_dialogues_are_held_graded_and_reported(quiz, videos_of, tiny_checkpoint, tmp_path, monkeypatch, capsys):
    task = tmp_path / "svbench-short.yaml"  # a file of one's own is a task too
    task.write_text((FOLDER / "svbench-streaming.yaml").read_text().replace("reply: 128", "reply: 2"))
    where = ["--data", quiz["svbench-streaming"], "--videos", videos_of("svbench-streaming"), "--device", "cpu"]
    where = [*map(str, where), "--model", str(tiny_checkpoint), "--output-dir", str(tmp_path), "--max-count", "2"]
    stream = ["--streaming", "--variant", "livecc", "--own-history"]
    assert command.main([str(task), *where, *stream]) == 0
    assert "not graded yet" in capsys.readouterr().out
    path = tmp_path / "svbench-short_streaming_own_history.jsonl"
    rows = [row for _, row in read_lines(path).values()]
    made = json.loads((tmp_path / f"{path.stem}_run.json").read_text())["settings"]
    assert "own history" in made["how"] and [len(row["rounds"]) > 1 for row in rows] == [True, True]
    assert rows[0]["annotation"] == "\n".join(one["answer"] for one in rows[0]["rounds"])

    monkeypatch.setenv("SWWATCH_JUDGE_MODEL", "m")
    with Endpoint() as server:
        server.brain = lambda request: json.dumps(dict.fromkeys(SCALES, 4 + ("toy0" in tagged(request, "dialogue"))))
        flags = ["--base-url", server.url, "--key-env", "none", "--criterion", "dialogue"]
        assert judge.main([str(path), *flags]) == 0
        assert len(server.requests) == 2 and rows[0]["rounds"][0]["question"] in tagged(server.requests[0], "dialogue")
    assert "semantic accuracy" in capsys.readouterr().out
    named = ["--output-dir", str(tmp_path), "--output-file", path.name]
    assert command.main([str(task), "--report", *named]) == 0
    out = capsys.readouterr().out
    assert "graded by m, of 10" in out and "| **overall** | 40.0 | [40.0, 40.0] | - | 2 |" in out


def test_a_run_without_dialogues_is_not_graded_by_their_scales(tmp_path, monkeypatch):
    monkeypatch.setenv("SWWATCH_JUDGE_MODEL", "m")
    path = tmp_path / "a_infer.json"
    path.write_text(json.dumps({"video_id": "1", "result": "A dog.", "annotation": "A dog."}) + "\n")
    flags = ["--base-url", "http://127.0.0.1:9/v1", "--key-env", "none", "--criterion", "dialogue"]
    with pytest.raises(UserError, match="1 is no dialogue"):
        judge.main([str(path), *flags])
