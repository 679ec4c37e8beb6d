"""Benchmarks whose questions are asked in mid-stream: OVO-Bench and StreamingBench's real-time part.

What comes after the moment of asking is never shown.
"""

import re
from pathlib import Path

from swwatch.evaluate.quiz.items import FileRow, Item, letters_of, multiple_choice, read_rows, seconds
from swwatch.evaluate.quiz.wording import Wording

# modes of OVO-Bench -> their tasks. Source: constant.py of github.com/JoeLeelyf/OVO-Bench
OVO_MODES = {
    "real-time": ("OCR", "ACR", "ATR", "STU", "FPD", "OJR"),
    "backward": ("EPM", "ASI", "HLD"),
    "forward": ("REC", "SSR", "CRR"),
}
DIGITS = tuple("0123456789")
NO_YES = ("No", "Yes")


def ovobench(data: Path, wording: Wording) -> list[Item]:
    """OVO-Bench (arXiv 2501.05510): the json list of all three modes.

    Fields of backward tracing and real-time perception: id, task, video, realtime (seconds: what is shown ends here),
    question, options (without letters), gt (index of the right one). Of forward responding: test_info, a list of
    {realtime, ...}, one question each: REC `count` with `activity` beside the list, SSR `step` and `type` (1: yes),
    CRR `type` with `question` and `ask_time` (what is shown begins here) beside the list. Source: data files and
    evaluation of github.com/JoeLeelyf/OVO-Bench; that CRR begins at ask_time is LiveCC's.
    """
    items = []
    for row in read_rows(data):
        task, video, number = row.text("task"), row.text("video"), row.text("id")
        places = (video, f"src_videos/{video}")
        if task in OVO_MODES["forward"]:
            for i, test in enumerate(row.rows("test_info")):
                items.append(Item(f"{number}/{i}", video, places, group=task, **_forward(task, row, test, wording)))
            continue
        if not any(task in tasks for tasks in OVO_MODES.values()):
            raise row.wrong(f"task {task!r} is none of OVO-Bench's")
        options = row.texts("options")
        letters = letters_of(row, options)
        more = {"answer": letters[row.index("gt", len(letters))], "end_s": row.number("realtime")}
        where = {"key": number, "video": video, "places": places, "group": task}
        items.append(multiple_choice(row, wording.ask, options, **where, **more))
    return items


def _forward(task: str, row: FileRow, test: FileRow, wording: Wording) -> dict:
    end = {"end_s": test.number("realtime")}
    if task == "REC":
        prompt = wording.count.format(activity=row.text("activity"))
        return end | {"prompt": prompt, "choices": DIGITS, "answer": str(test.index("count"))}
    answer = {"choices": NO_YES, "answer": NO_YES[test.index("type", 2)]}
    if task == "SSR":
        return end | answer | {"prompt": wording.step.format(step=test.text("step"))}
    prompt = wording.ready.format(question=row.text("question"))
    return end | answer | {"prompt": prompt, "start_s": row.number("ask_time")}


def streamingbench(data: Path, wording: Wording) -> list[Item]:
    """StreamingBench (arXiv 2411.03628), real-time visual understanding; what is shown is [0, time_stamp).

    Two official forms. questions_real.json: a list of {video_path, questions: [{task_type, question, time_stamp
    ("00:03:26"), answer (a letter), options ("A. ...")}]}, source: src/data of the code. csv of the data set
    mjuicem/StreamingBench: question_id (..._sample_7_1), task_type, question, time_stamp, answer, options (a list in
    text), source: its dataset card; videos lie in sample_7/video.mp4.
    """
    items, asked = [], {}
    for row in read_rows(data):
        if "questions" not in row:
            found = re.search(r"sample_(\d+)_", row.text("question_id"))
            if not found:
                raise row.wrong(f"question_id {row.text('question_id')!r} names no sample_<number>")
            video = f"sample_{found[1]}"
            places = (f"{video}/video.mp4", f"{video}_real.mp4", f"{video}.mp4")
            items.append(_streamed(row, row.text("question_id"), video, places, wording))
            continue
        path = row.text("video_path").removeprefix("./")
        for question in row.rows("questions"):
            number = asked[path] = asked.get(path, -1) + 1
            name = Path(path).name  # some paths of the public files are those of their author's machine
            places = (path, name, f"videos/{name}")
            items.append(_streamed(question, f"{Path(path).stem}/{number}", path, places, wording))
    return items


def _streamed(row: FileRow, key: str, video: str, places: tuple[str, ...], wording: Wording) -> Item:
    where = {"key": key, "video": video, "places": places, "group": row.text("task_type")}
    return multiple_choice(row, wording.ask, row.texts("options"), **where, end_s=seconds(row, "time_stamp"))
