"""Benchmarks whose questions are about whole, recorded videos: VideoMME, MVBench, LiveSports-3K QA."""

from dataclasses import replace
from pathlib import Path

from swwatch.errors import UserError
from swwatch.evaluate.quiz.items import Item, Row, multiple_choice, read_rows, worded_answer
from swwatch.evaluate.quiz.wording import Wording

ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov")
TVQA_FPS = 3.0


def videomme(data: Path, wording: Wording, subtitles: Path | None = None) -> list[Item]:
    """Video-MME (arXiv 2405.21075): parquet or json rows.

    Fields: videoID, question_id, duration (short, medium, long), domain, sub_category, task_type, question, options
    (a list of "A. ..."), answer (a letter). Videos are <videoID>.mp4, subtitles <videoID>.srt. Source: the dataset
    card of lmms-lab/Video-MME.

    Args:
        subtitles: folder of the srt files; a video without one has no subtitles.
    """
    items = []
    for row in read_rows(data):
        video = row.text("videoID")
        item = multiple_choice(
            row,
            wording.ask,
            row.texts("options"),
            key=row.text("question_id"),
            video=video,
            places=tuple(f"{folder}{video}{ending}" for folder in ("", "data/", "video/") for ending in ENDINGS),
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
    """MVBench (arXiv 2311.17005): a folder with one json file for each task; those that are there are asked.

    Fields: video, question, candidates, answer (the words of a candidate); start and end in seconds where the task's
    row in MVBENCH says so.
    """
    if not data.is_dir():
        raise UserError(f"{data} is no folder: MVBench has one json file for each task, give their folder by --data")
    items = []
    for task, (name, folder, bounded) in MVBENCH.items():
        path = data / f"{name}.json"
        for number, row in enumerate(read_rows(path) if path.is_file() else []):
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


def _span(row: Row) -> dict:
    known = {"video_start": "start_s", "begin": "start_s", "video_end": "end_s", "end": "end_s"}
    found: dict[str, float] = {}
    for name, field in known.items():
        if name in row:
            found.setdefault(field, row.number(name))
    return found
