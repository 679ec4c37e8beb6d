"""Benchmarks whose questions are about whole, recorded videos: VideoMME, MVBench, LongVideoBench, LiveSports-3K QA.

The first three are also read from the tsv files that VLMEvalKit makes of them.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from swwatch.errors import UserError
from swwatch.evaluate.quiz.items import (
    LETTERS,
    FileRow,
    Item,
    clock,
    letters_of,
    multiple_choice,
    read_rows,
    worded_answer,
)
from swwatch.evaluate.quiz.wording import Wording

ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov")
TVQA_FPS = 3.0


def videomme(data: Path, wording: Wording, subtitles: Path | None = None) -> list[Item]:
    """Video-MME (arXiv 2405.21075): parquet or json rows, or VLMEvalKit's tsv.

    Fields: videoID, question_id, duration (short, medium, long), domain, sub_category, task_type, question, options
    (a list of "A. ..."), answer (a letter). Videos are <videoID>.mp4, subtitles <videoID>.srt. The tsv has index,
    video, video_path and candidates for question_id, videoID and options. Source: the dataset card of
    lmms-lab/Video-MME.

    Args:
        subtitles: folder of the srt files; a video without one has no subtitles.
    """
    items = []
    for row in read_rows(data):
        video = row.text("videoID", "video")
        named = [_below(row.text("video_path"))] if "video_path" in row else []
        item = multiple_choice(
            row,
            wording.ask,
            row.texts("options", "candidates"),
            key=row.text("question_id", "index"),
            video=video,
            places=(*named, *(f"{folder}{video}{end}" for folder in ("", "data/", "video/") for end in ENDINGS)),
            group=row.text("duration"),
            tags=tuple(row.text(name) for name in ("domain", "task_type") if name in row),
        )
        if subtitles is not None:
            said = read_srt(subtitles / f"{video}.srt")
            item = replace(item, prompt=wording.subtitled.format(subtitles=said, question=item.prompt))
        items.append(item)
    return items


def read_srt(path: Path) -> str:
    """The words of a subtitle file, without numbers and times; "" where there is no file."""
    if not path.is_file():
        return ""
    said = []
    for block in path.read_text(encoding="utf-8-sig", errors="replace").replace("\r\n", "\n").split("\n\n"):
        lines = block.strip().split("\n")
        times = next((i for i, line in enumerate(lines) if "-->" in line), None)
        if times is not None:
            said += [line.strip() for line in lines[times + 1 :] if line.strip()]
    return " ".join(said)


# task -> (annotation file, folder of the videos, whether start and end bound what is shown). Source: the table of
# MVBench's evaluation notebook (github.com/OpenGVLab/Ask-Anything, video_chat2)
MVBENCH = {
    "Action Sequence": ("action_sequence", "star/Charades_v1_480", True),
    "Action Prediction": ("action_prediction", "star/Charades_v1_480", True),
    "Action Antonym": ("action_antonym", "ssv2_video", False),
    "Fine-grained Action": ("fine_grained_action", "Moments_in_Time_Raw/videos", False),
    "Unexpected Action": ("unexpected_action", "FunQA_test/test", False),
    "Object Existence": ("object_existence", "clevrer/video_validation", False),
    "Object Interaction": ("object_interaction", "star/Charades_v1_480", True),
    "Object Shuffle": ("object_shuffle", "perception/videos", False),
    "Moving Direction": ("moving_direction", "clevrer/video_validation", False),
    "Action Localization": ("action_localization", "sta/sta_video", True),
    "Scene Transition": ("scene_transition", "scene_qa/video", False),
    "Action Count": ("action_count", "perception/videos", False),
    "Moving Count": ("moving_count", "clevrer/video_validation", False),
    "Moving Attribute": ("moving_attribute", "clevrer/video_validation", False),
    "State Change": ("state_change", "perception/videos", False),
    "Fine-grained Pose": ("fine_grained_pose", "nturgbd", False),
    "Character Order": ("character_order", "perception/videos", False),
    "Egocentric Navigation": ("egocentric_navigation", "vlnqa", False),
    "Episodic Reasoning": ("episodic_reasoning", "tvqa/frames_fps3_hq", True),  # folders of pictures, 3 a second
    "Counterfactual Inference": ("counterfactual_inference", "clevrer/video_validation", False),
}


def mvbench(data: Path, wording: Wording) -> list[Item]:
    """MVBench (arXiv 2311.17005): a folder with one json file for each task, those that are there, or the tsv of
    VLMEvalKit, in which a row names its task (task_type).

    Fields: video, question, candidates, answer (the words of a candidate); start and end in seconds where the task's
    row in MVBENCH says so.
    """
    items = []
    for task, number, row in _mvbench_rows(data):
        name, folder, bounded = MVBENCH[task]
        video, options = f"{folder}/{row.text('video')}", row.texts("candidates")
        shown = {"start_s": row.number("start"), "end_s": row.number("end")} if bounded else {}
        if "frames_fps3" in folder:
            shown["frames_per_second"] = TVQA_FPS
        where = {"key": f"{name}/{number}", "video": video, "places": (video, f"video/{video}"), "group": task}
        answer = worded_answer(row, options)
        items.append(multiple_choice(row, wording.ask, options, answer=answer, **where, **shown))
    if not items:
        raise UserError(f"{data} holds no annotation file of MVBench, such as action_sequence.json")
    return items


def _mvbench_rows(data: Path) -> Iterator[tuple[str, int, FileRow]]:
    """(task, number of the question, row)."""
    if data.suffix.lower() == ".tsv":
        for row in read_rows(data):
            if row.text("task_type") not in MVBENCH:
                raise row.wrong(f"no task of MVBench: {row.text('task_type')!r}")
            yield row.text("task_type"), row.index("index"), row
        return
    if not data.is_dir():
        raise UserError(f"{data} is no folder: MVBench has one json file for each task, give their folder by --data")
    for task, (name, _, _) in MVBENCH.items():
        path = data / f"{name}.json"
        yield from ((task, number, row) for number, row in enumerate(read_rows(path) if path.is_file() else []))


def longvideobench(data: Path, wording: Wording, subtitles: Path | None = None) -> list[Item]:
    """LongVideoBench (arXiv 2407.15754), its questions with answers: lvb_val.json, parquet rows or VLMEvalKit's tsv.

    Fields: id, video_id, video_path, question, candidates (or option0 ..., "N/A" where there is none), correct_choice
    (their number from 0), duration_group (15, 60, 600, 3600), question_category, topic_category; of subtitles
    subtitle_path, starting_timestamp_for_subtitles, duration. Videos lie in videos/. Source: code that reads them.

    Args:
        subtitles: folder of its json files; a video without one has none. They stand before the question, where the
            benchmark's own loader puts them between the frames.
    """
    items = []
    for row in read_rows(data):
        options = row.texts("candidates") if "candidates" in row else _numbered(row)
        path, video = PurePosixPath(_below(row.text("video_path"))), row.text("video_id")
        item = multiple_choice(
            row,
            wording.ask,
            options,
            answer=letters_of(row, options)[row.index("correct_choice", len(options))],
            key=row.text("id"),
            video=video,
            places=(str(path), f"videos/{path.name}", path.name),
            group=row.text("duration_group"),
            tags=tuple(row.text(name) for name in ("question_category", "topic_category") if name in row),
        )
        if subtitles is not None:
            said = _spoken(subtitles / PurePosixPath(row.text("subtitle_path")).name, row)
            item = replace(item, prompt=wording.subtitled.format(subtitles=said, question=item.prompt))
        items.append(item)
    return items


def _numbered(row: FileRow) -> list[str]:
    options = [row.text(f"option{i}") for i in range(len(LETTERS)) if f"option{i}" in row]
    return [option for option in options if option != "N/A"]


def _spoken(path: Path, row: FileRow) -> str:
    """What is said in a clip, of subtitles that count from the beginning of the video that it was cut from."""
    if not path.is_file():
        return ""
    begin_s, length_s = row.number("starting_timestamp_for_subtitles"), row.number("duration")
    said = []
    try:
        for one in json.loads(path.read_text(encoding="utf-8-sig")):
            words = one["text"] if "timestamp" in one else one["line"]
            start, end = one["timestamp"] if "timestamp" in one else (clock(one["start"]), clock(one["end"]))
            if float(start) < begin_s + length_s and (end is None or float(end) > begin_s):
                said.append(words.strip())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} holds no subtitles of LongVideoBench: {error!r}") from error
    return " ".join(said)


def _below(path: str) -> str:
    """A path without the ./ that it may begin with."""
    return str(PurePosixPath(path))


def livesports(data: Path, wording: Wording) -> list[Item]:
    """LiveSports-3K QA (arXiv 2504.16030): json, jsonl or csv rows.

    Fields that LiveCC's evaluation reads: video_id, question_id, q_type, OCR (1: text in the picture must be read),
    question, options ("A. ..."), answer (a letter), video_start, video_end. The data set's own file could not be
    looked into: begin and end (its other track's names), and option_A ... instead of options, are taken too.
    """
    items = []
    for row in read_rows(data):
        named = [f"option_{letter}" for letter in "ABCDE"]
        options = [row.text(name) for name in named if name in row] if "options" not in row else row.texts("options")
        video = row.text("video_id")
        names = [row.text("video")] if "video" in row else []
        names += [f"{folder}{video}{ending}" for folder in ("", "videos/") for ending in ENDINGS]
        items.append(
            multiple_choice(
                row,
                wording.ask,
                options,
                key=f"{video}/{row.text('question_id')}",
                video=video,
                places=tuple(names),
                group=row.text("q_type"),
                tags=("OCR",) if "OCR" in row and row.number("OCR") == 1 else (),
                **_span(row),
            )
        )
    return items


def _span(row: FileRow) -> dict:
    known = {"video_start": "start_s", "begin": "start_s", "video_end": "end_s", "end": "end_s"}
    found: dict[str, float] = {}
    for name, field in known.items():
        if name in row:
            found.setdefault(field, row.number(name))
    return found
