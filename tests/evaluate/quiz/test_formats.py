"""Every benchmark's files become the questions that they hold, and mistakes in them are told."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from swwatch.errors import UserError
from swwatch.evaluate.quiz import tasks
from swwatch.evaluate.quiz.items import Item
from swwatch.evaluate.rows import read_rows
from swwatch.evaluate.tasks import FOLDER
from swwatch.toy.quiz import OPTIONS, write_quiz
from swwatch.toy.world import COLORS, make_scene

SCENES = [make_scene(0, i, split="test") for i in range(3)]
EVENTS = [event for scene in SCENES for event in scene.events]
LETTER = dict(zip(COLORS, "ABCD", strict=True))
MVBENCH = {
    part: (facts["file"], facts["folder"], facts.get("bounded", False))
    for part, facts in tasks.get("mvbench").parts.items()
}


def items_of(quiz, name, **options) -> list[Item]:
    return tasks.get(name).items(quiz[name], **options)


@pytest.mark.parametrize("name", list(tasks.TASKS))
def test_every_question_has_a_video_and_an_answer_that_can_be_said(quiz, videos_of, name):
    items = items_of(quiz, name)
    assert len(items) == len({item.key for item in items}) > 2  # of paths through a video there is one each
    for item in items:
        assert item.locate(videos_of(name)).exists()
        assert item.moment or item.rounds or item.answer in item.choices


def test_videomme_asks_about_whole_videos_and_tells_durations_apart(quiz, tmp_path):
    items = items_of(quiz, "videomme")
    assert [item.answer for item in items] == [LETTER[event.color] for event in EVENTS]
    assert {item.group for item in items} == {"short", "medium", "long"}
    assert items[0].prompt == "\n".join(
        ["What colour has the shape at 0:01?", *OPTIONS, "Please select the correct answer."]
    )
    assert items[0].choices == tuple("ABCD") and items[0].end_s is None
    rows = [row.values for row in read_rows(quiz["videomme"])]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path in tmp_path.iterdir():
        assert tasks.get("videomme").items(path) == items


def test_the_tsv_files_of_vlmevalkit_hold_the_same_questions(quiz, tmp_path, videos_of):
    """Their columns, lists written as Python writes them, and paths from the folder that the file lies in."""

    def write(name: str, rows: list[dict]) -> Path:
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter="\t", extrasaction="ignore")
            table.writeheader()
            table.writerows(row | {"index": i} for i, row in enumerate(rows))
        return tmp_path / name

    def alike(found: list[Item], wanted: list[Item]) -> bool:
        bare = [[replace(item, key="", places=()) for item in items] for items in (found, wanted)]
        return bare[0] == bare[1] and len({item.key for item in found}) == len(found) > 3

    rows = [row.values for row in read_rows(quiz["videomme"])]
    rows = [{"index": 0, "video": row["videoID"], "video_path": f"./video/{row['videoID']}.mp4"} | row for row in rows]
    rows = [{k: v for k, v in row.items() if k not in ("videoID", "video_id", "question_id")} for row in rows]
    rows = [row | {"candidates": str(row.pop("options"))} for row in rows]
    found = tasks.get("videomme").items(write("Video-MME.tsv", rows))
    assert alike(found, items_of(quiz, "videomme")) and found[0].places[0] == "video/toy0.mp4"

    rows = []
    for task, (name, folder, bounded) in MVBENCH.items():
        path = quiz["mvbench"] / f"{name}.json"
        for row in json.loads(path.read_text()) if path.is_file() else []:
            kind = {"task_type": task, "prefix": f"video/{folder}/", "bound": bounded, "start": "", "end": ""}
            kind |= {"index": 0, "data_type": "frame" if "frames" in folder else "video"}
            rows.append(kind | row | {"candidates": str(row["candidates"])})
    found = tasks.get("mvbench").items(write("MVBench.tsv", rows))
    assert alike(found, items_of(quiz, "mvbench"))
    assert all(item.locate(videos_of("mvbench").parent).exists() for item in found)

    rows = json.loads(quiz["longvideobench"].read_text())
    rows = [row | {"index": 0, "video_path": f"./videos/{row['video_path']}"} for row in rows]
    found = tasks.get("longvideobench").items(write("LongVideoBench.tsv", rows))
    assert alike(found, items_of(quiz, "longvideobench"))


def test_longvideobench_counts_by_length_and_reads_both_forms_of_subtitles(quiz, tmp_path):
    items = items_of(quiz, "longvideobench")
    assert [item.answer for item in items] == [LETTER[event.color] for event in EVENTS]
    assert {item.group for item in items} == {"15", "60", "600"} and items[0].tags == ("S2A", "KA-Knowledge-Art")
    rows = json.loads(quiz["longvideobench"].read_text())
    spread = [row | {f"option{i}": text for i, text in enumerate([*row.pop("candidates"), "N/A"])} for row in rows]
    (tmp_path / "validation.json").write_text(json.dumps(spread))
    assert tasks.get("longvideobench").items(tmp_path / "validation.json") == items
    first, second, *_ = dict.fromkeys(row["subtitle_path"] for row in rows)
    said = [{"timestamp": [99.0, 99.5], "text": "before"}, {"timestamp": [101.0, None], "text": "in it"}]
    (tmp_path / first).write_text(json.dumps(said))
    said = [
        {"start": "00:01:41.5", "end": "00:01:42.0", "line": "now"},
        {"start": "01:00:00", "end": "01:00:01", "line": "late"},
    ]
    (tmp_path / second).write_text(json.dumps(said))
    told = {item.video: item.prompt for item in items_of(quiz, "longvideobench", subtitles=tmp_path)}
    begin = "This video's subtitles are listed below:\n"
    assert [told[f"toy{i}"].split("\nAccording")[0] for i in range(3)] == [
        begin + text for text in ("in it", "now", "")
    ]
    (tmp_path / first).write_text("[1]")
    with pytest.raises(UserError, match="no subtitles of LongVideoBench"):
        items_of(quiz, "longvideobench", subtitles=tmp_path)


def test_subtitles_stand_before_the_question_and_a_video_may_have_none(quiz, tmp_path):
    folder = quiz["videomme"].parent / "subtitle"
    (tmp_path / "toy1.srt").write_bytes((folder / "toy1.srt").read_bytes())
    plain, told = items_of(quiz, "videomme"), items_of(quiz, "videomme", subtitles=folder)
    assert told[0].prompt.startswith(f"This video's subtitles are listed below:\n{SCENES[0].caption}\nAccording to")
    assert told[0].prompt.endswith(plain[0].prompt)
    few = items_of(quiz, "videomme", subtitles=tmp_path)
    assert few[0].prompt.startswith("This video's subtitles are listed below:\n\nAccording") and few[-1] != plain[-1]
    with pytest.raises(UserError, match="livesports has no subtitles"):
        items_of(quiz, "livesports", subtitles=folder)


def test_mvbench_shows_what_a_bounded_task_bounds(quiz):
    items = {task: [item for item in items_of(quiz, "mvbench") if item.group == task] for task in MVBENCH}
    whole, bounded, folders = (
        items[name] for name in ("Moving Attribute", "Action Localization", "Episodic Reasoning")
    )
    last = [scene.events[-1] for scene in SCENES]
    assert {(item.start_s, item.end_s) for item in whole} == {(0, None)}
    for some in (bounded, folders):
        assert [(item.start_s, item.end_s) for item in some] == [(event.start_s, event.end_s) for event in last]
    assert {item.frames_per_second for item in folders} == {3} and bounded[0].frames_per_second is None
    assert [item.answer for item in whole] == [LETTER[scene.events[0].color] for scene in SCENES]
    assert len(MVBENCH) == 20


def test_mvbench_gives_answers_in_words_even_where_these_are_letters(tmp_path):
    row = {"video": "a.mp4", "question": "Which letter comes first?", "candidates": ["C", "A", "B"], "answer": "A"}
    (tmp_path / "character_order.json").write_text(json.dumps([row]))
    assert tasks.get("mvbench").items(tmp_path)[0].answer == "B"
    (tmp_path / "character_order.json").write_text(json.dumps([row | {"answer": "D"}]))
    with pytest.raises(UserError, match="answer 'D' is none of its 3 options"):
        tasks.get("mvbench").items(tmp_path)


def test_ovobench_makes_one_question_of_each_test_time(quiz):
    items = items_of(quiz, "ovobench")
    by_task = {task: [item for item in items if item.group == task] for task in ("EPM", "ATR", "REC", "SSR", "CRR")}
    assert sum(map(len, by_task.values())) == len(items) and {len(by_task["EPM"]), len(by_task["ATR"])} == {3}
    for task in tasks.get("ovobench").modes["forward"]:
        assert [item.end_s for item in by_task[task]] == [event.end_s for event in EVENTS]
        assert {item.start_s for item in by_task[task]} == {0}
    assert by_task["REC"][1].choices == tuple("0123456789") and by_task["REC"][1].answer == "2"
    assert [item.answer for item in by_task["SSR"][:3]] == ["No", "Yes", "No"]
    assert [item.answer for item in by_task["CRR"][:3]] == ["No", "Yes", "Yes"]
    first = by_task["ATR"][0]
    assert (first.start_s, first.end_s) == (0, 3) and "\nC. blue\n" in first.prompt


def test_crr_begins_when_it_is_asked_and_a_count_above_nine_can_only_be_missed(tmp_path):
    rows = [
        {"id": 1, "task": "CRR", "video": "a.mp4", "question": "Why?", "ask_time": 7},
        {"id": 2, "task": "REC", "video": "a.mp4", "activity": "jump"},
    ]
    rows[0]["test_info"] = [{"realtime": 9, "type": 0}]
    rows[1]["test_info"] = [{"realtime": 9, "count": 12}]
    (tmp_path / "ovo.json").write_text(json.dumps(rows))
    ready, many = tasks.get("ovobench").items(tmp_path / "ovo.json")
    assert (ready.start_s, ready.end_s) == (7, 9) and "Why?" in ready.prompt
    assert many.answer == "12" and many.answer not in many.choices and "jump" in many.prompt


def test_both_forms_of_streamingbench_hold_the_same_questions(quiz):
    path = quiz["streamingbench"]
    one = items_of(quiz, "streamingbench")
    other = tasks.get("streamingbench").items(path.parent / "Real_Time_Visual_Understanding.csv")
    shared = ("prompt", "choices", "answer", "group", "start_s", "end_s")
    assert [[getattr(item, name) for name in shared] for item in one] == [
        [getattr(item, name) for name in shared] for item in other
    ]
    assert [item.end_s for item in one] == [event.start_s + 2 for event in EVENTS]
    assert "sample_1/video.mp4" in other[0].places


def test_streamingbench_finds_videos_whose_paths_are_of_another_machine(quiz, tmp_path):
    rows = json.loads(quiz["streamingbench"].read_text())
    path = tmp_path / "questions_real.json"
    path.write_text(json.dumps([row | {"video_path": f"/home/author/data/{row['video_path'][2:]}"} for row in rows]))
    root = quiz["streamingbench"].parent
    items = tasks.get("streamingbench").items(path)
    for folder in (root, root / "videos"):
        assert [item.locate(folder).name for item in items[:1]] == ["sample_1_real.mp4"]


def test_livesports_reads_both_spellings_of_its_span_and_options(quiz, tmp_path):
    items = items_of(quiz, "livesports")
    assert [(item.start_s, item.end_s) for item in items] == [(event.start_s, event.end_s) for event in EVENTS]
    assert {item.group for item in items} == {"When", "What", "Who"} and {item.tags for item in items} == {
        (),
        ("OCR",),
    }
    rows = []
    for row in json.loads(quiz["livesports"].read_text()):
        options = {f"option_{option[0]}": option[3:] for option in row.pop("options")}
        rows.append(row | options | {"begin": row.pop("video_start"), "end": row.pop("video_end")})
    (tmp_path / "qa.json").write_text(json.dumps(rows))
    assert tasks.get("livesports").items(tmp_path / "qa.json") == items


@pytest.mark.parametrize("answer", ["B", "B.", "(B)", "B. green", "green"])
def test_an_answer_may_be_given_as_letter_or_in_words(tmp_path, answer):
    row = {"video_id": "v", "question_id": 1, "q_type": "What", "question": "?", "options": OPTIONS, "answer": answer}
    (tmp_path / "qa.jsonl").write_text(json.dumps(row))
    assert tasks.get("livesports").items(tmp_path / "qa.jsonl")[0].answer == "B"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"answer": "E"}, "none of its 4 options"),
        ({"options": ["only"]}, "1 options"),
        ({"options": "['a', "}, "no list"),
        ({"question": None}, "row 1: no question"),
        ({"video_start": "soon"}, "is no number"),
        ({"video_start": -1}, "about the seconds -1"),
        ({"video_end": 0}, "about the seconds"),
    ],
)
def test_a_row_that_is_no_question_is_told(tmp_path, change, told):
    row = {"video_id": "v", "question_id": 1, "q_type": "What", "question": "?", "options": OPTIONS, "answer": "A"}
    (tmp_path / "qa.json").write_text(json.dumps([row | change]))
    with pytest.raises(UserError, match=told):
        tasks.get("livesports").items(tmp_path / "qa.json")


def test_mistakes_about_files_are_told(quiz, tmp_path):
    for name, text, told in [
        ("a.json", "{}", "a list of objects"),
        ("b.json", "[]", "holds no question"),
        ("c.json", "[", "cannot be read"),
        ("d.parquet", "PAR1", "cannot be read"),
        ("e.txt", "", r"e\.txt cannot be read: a json, jsonl, csv, tsv or parquet file is wanted$"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=told):
            tasks.get("videomme").items(tmp_path / name)
    with pytest.raises(UserError, match="there is no file"):
        tasks.get("videomme").items(tmp_path / "none.json")
    with pytest.raises(UserError, match="is no folder"):
        tasks.get("mvbench").items(quiz["videomme"])
    with pytest.raises(UserError, match="no annotation file of MVBench"):
        tasks.get("mvbench").items(tmp_path)
    (tmp_path / "ovo.json").write_text(json.dumps([{"id": 0, "task": "XYZ", "video": "a.mp4"}]))
    with pytest.raises(UserError, match="'XYZ' is none of OVO-Bench's"):
        tasks.get("ovobench").items(tmp_path / "ovo.json")
    rows = json.loads(quiz["livesports"].read_text())
    (tmp_path / "twice.json").write_text(json.dumps(rows + rows[:1]))
    with pytest.raises(UserError, match="toy0/0 stands there more than once"):
        tasks.get("livesports").items(tmp_path / "twice.json")
    with pytest.raises(UserError, match="no task 'vqa': choose one of"):
        tasks.get("vqa")
    with pytest.raises(UserError, match="not an empty folder"):
        write_quiz(tmp_path)


def test_a_wording_must_have_its_places(tmp_path):
    task = tasks.get("ovobench")
    (tmp_path / "a.yaml").write_text("count: How many?")
    with pytest.raises(UserError, match="count lacks {activity}"):
        task.form(str(tmp_path / "a.yaml"))
    (tmp_path / "b.yaml").write_text("counts: x")
    with pytest.raises(UserError, match="asks no counts; did you mean 'count'"):
        task.form(str(tmp_path / "b.yaml"))
    with pytest.raises(UserError, match="cannot read the wording"):
        task.form(str(tmp_path / "c.yaml"))
    with pytest.raises(UserError, match="no wording 'offical': give livecc or official"):
        task.form("offical")
    (tmp_path / "d.yaml").write_text("count: How often {activity}, {?")
    with pytest.raises(UserError, match="count is no template"):
        task.form(str(tmp_path / "d.yaml"))
    (tmp_path / "own.yaml").write_text("count: How often {activity}?")
    own, first = task.form(str(tmp_path / "own.yaml")), task.form()
    assert own.prompts == first.prompts | {"count": "How often {activity}?"} and own.version != first.version
    assert own.version.startswith("own-") and task.form("livecc") == first


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("reader: rows", "reader: row", "'row' is none of rows, parts"),
        ("group: duration", "grup: duration", "fields lack group"),
        ("question: question", "query: question", "fields lack question"),
        ("prompts:", "promts:", "promts"),
        ("      question: |-", "      asked: |-", "the form livecc has no prompt question"),
        ("all questions: questions", "all questions: question", "neither questions nor groups"),
        ("{video_path:below}", "{question:below2}", "of a path there are name, stem and below"),
        ("title: Video-MME", "titel: Video-MME", "titel"),
        ("reader: rows", "reader:", "reader: a text"),
        ("answer: {letter: answer}", "answer: answer", "fields answer: NAME: VALUE is wanted"),
        ("answer: {letter: answer}", "answer: {leter: answer}", "an answer is told in one of these ways"),
        ('["{video_path:below}"', '["{video_path:below"', "places is no template"),
        ("beginning: ", "beginning: 1  # ", "forms livecc beginning: a text"),
        ("subtitles: srt", "kinds: {SSR: {choices: [No, Yes]}}", "choices: a text .in quotes. is wanted, not False"),
        ("options: [options, candidates]", 'options: "{choice}"', "choice is neither number nor letter"),
    ],
)
def test_a_file_that_is_no_task_is_told(quiz, tmp_path, old, new, told):
    text = (FOLDER / "videomme.yaml").read_text()
    assert old in text
    (tmp_path / "own.yaml").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=told):
        tasks.get(str(tmp_path / "own.yaml")).items(quiz["videomme"])
