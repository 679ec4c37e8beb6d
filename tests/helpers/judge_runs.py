"""Runs for the judge to grade, and what it wrote."""

import json

from tests.helpers.judge_server import grade, tagged

CAPTIONS = {"1": "A dog runs.", "2": "Dog the run run a.", "3": "A cat sleeps.", "4": ""}
GRADES = {"A dog runs.": 5, "Dog the run run a.": 2, "A cat sleeps.": 4}


def write_run(folder, name, captions, annotation="A dog runs over grass."):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_infer.json"
    rows = [{"video_id": key, "annotation": annotation, "task": "x", "result": text} for key, text in captions.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def by_caption(grades=GRADES):
    return lambda request: grade(grades[tagged(request, "text")], why=f"so {tagged(request, 'text')}")


def read(path):
    return json.loads(path.read_text())
