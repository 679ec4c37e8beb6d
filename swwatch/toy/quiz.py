"""A tiny quiz in the official form of every benchmark of `swwatch quiz`: what colour has the shape at 0:04?

`python -m swwatch.toy.quiz OUT` writes, for each benchmark, its annotation file (of MVBench three of twenty) and its
videos where the real ones lie. All ask about the same few toy clips.
"""

import argparse
import csv
import json
import sys
from itertools import pairwise
from pathlib import Path

from swwatch.errors import UserError, run
from swwatch.toy.clips import FRAME_RATES, encode, write_whole
from swwatch.toy.recipe import check_empty
from swwatch.toy.world import COLORS, Scene, SceneEvent, make_scene, render

OPTIONS = [f"{letter}. {color}" for letter, color in zip("ABCD", COLORS, strict=True)]
PICTURES_PER_SECOND = 3  # of TVQA's folders
SUB_SETS = ("streamingbench-sqa", "streamingbench-proactive")
_VIDEOS = {"mvbench": "video"}  # the others name their folders themselves


def write_quiz(root: Path, *, videos: int = 4, seed: int = 0) -> dict[str, Path]:
    """Write all.

    Returns:
        Task -> its annotation file or folder; its videos lie beside that.
    Raises:
        UserError: `root` is not empty.
    """
    check_empty(root)
    if videos < 1:
        raise UserError(f"{videos} videos: one at least is needed")
    scenes = [make_scene(seed, i, split="test") for i in range(videos)]
    clips = [encode(scene, FRAME_RATES[i % len(FRAME_RATES)]) for i, scene in enumerate(scenes)]
    forms = (_videomme, _mvbench, _longvideobench, _ovobench, _streamingbench, _livesports)
    files = {form.__name__[1:]: form(root / form.__name__[1:], scenes, clips) for form in forms}
    stream = files["streamingbench"].parent
    more = {name: stream / f"questions_{name.partition('-')[2]}.json" for name in SUB_SETS}
    svbench = _svbench(root / "svbench", scenes, clips)
    dialogues = {f"svbench-{kind}": svbench for kind in ("dialogue", "streaming")}
    return files | more | {"ovobench-moments": files["ovobench"]} | dialogues


def _ask(event: SceneEvent) -> tuple[int, str, str]:
    """A moment of an event in whole seconds, the question about it, and its letter."""
    at_s = int(event.start_s) + 1
    question = f"What colour has the shape at {at_s // 60}:{at_s % 60:02}?"
    return at_s, question, "ABCD"[list(COLORS).index(event.color)]


def _videomme(root: Path, scenes: list[Scene], clips: list[bytes]) -> Path:
    import pyarrow
    from pyarrow.parquet import write_table

    rows = []
    for i, (scene, clip) in enumerate(zip(scenes, clips, strict=True)):
        name = f"toy{i}"
        _write(root / "data" / f"{name}.mp4", clip)
        said = f"1\n00:00:00,000 --> 00:00:02,000\n{scene.caption}\n"
        _write(root / "subtitle" / f"{name}.srt", said.encode())
        for k, event in enumerate(scene.events):
            _, question, answer = _ask(event)
            number = {"video_id": f"{i + 1:03}", "videoID": name, "question_id": f"{i + 1:03}-{k + 1}"}
            kind = {"duration": ("short", "medium", "long")[i % 3], "domain": "Toy", "sub_category": "Shapes"}
            kind |= {"task_type": "Attribute Perception", "url": ""}
            rows.append(number | kind | {"question": question, "options": OPTIONS, "answer": answer})
    path = root / "test-00000-of-00001.parquet"
    write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def _mvbench(root: Path, scenes: list[Scene], clips: list[bytes]) -> Path:
    from PIL import Image

    plain, bounded, folders = [], [], []
    for i, (scene, clip) in enumerate(zip(scenes, clips, strict=True)):
        _write(root / "video/clevrer/video_validation" / f"toy{i}.mp4", clip)
        _write(root / "video/sta/sta_video" / f"toy{i}.mp4", clip)
        folder = root / "video/tvqa/frames_fps3_hq" / f"toy{i}"
        folder.mkdir(parents=True)
        for k in range(round(scene.duration_s * PICTURES_PER_SECOND)):
            Image.fromarray(render(scene, k / PICTURES_PER_SECOND)).save(folder / f"{k + 1:05}.jpg")
        first, last = scene.events[0], scene.events[-1]
        row = {"video": f"toy{i}.mp4", "candidates": list(COLORS)}
        plain.append(row | {"question": "What colour is seen first?", "answer": first.color})
        span = {"start": last.start_s, "end": last.end_s}
        bounded.append(row | span | {"question": "What colour is seen?", "answer": last.color})
        folders.append(bounded[-1] | {"video": f"toy{i}"})
    for name, rows in (("moving_attribute", plain), ("action_localization", bounded), ("episodic_reasoning", folders)):
        _write_json(root / "json" / f"{name}.json", rows)
    return root / "json"


def _longvideobench(root: Path, scenes: list[Scene], clips: list[bytes]) -> Path:
    rows = []
    for i, (scene, clip) in enumerate(zip(scenes, clips, strict=True)):
        name = f"toy{i}"
        _write(root / "videos" / f"{name}.mp4", clip)
        said = [{"start": "00:01:40", "end": "00:01:42", "line": scene.caption}]
        _write_json(root / "subtitles" / f"{name}_en.json", said)
        for k, event in enumerate(scene.events):
            _, question, answer = _ask(event)
            row = {"video_id": name, "question": question, "candidates": list(COLORS), "id": f"{name}_{k}"}
            row |= {"correct_choice": "ABCD".index(answer), "topic_category": "KA-Knowledge-Art"}
            row |= {"question_category": "S2A", "level": "L1-Perception", "duration_group": (15, 60, 600)[i % 3]}
            row |= {"video_path": f"{name}.mp4", "subtitle_path": f"{name}_en.json", "duration": scene.duration_s}
            rows.append(row | {"starting_timestamp_for_subtitles": 100})
    return _write_json(root / "lvb_val.json", rows)


def _ovobench(root: Path, scenes: list[Scene], clips: list[bytes]) -> Path:
    rows = []
    for i, (scene, clip) in enumerate(zip(scenes, clips, strict=True)):
        video = f"toy/{i}.mp4"
        _write(root / "src_videos" / video, clip)
        first, second = scene.events[:2]
        at_s = _ask(second)[0]
        ask = {"video": video, "options": list(COLORS)}
        before = {"question": "What colour was seen first?", "realtime": at_s, "answer": first.color}
        now = {"question": "What colour is seen now?", "realtime": at_s, "answer": second.color}
        rows.append({"task": "EPM"} | ask | before | {"gt": list(COLORS).index(first.color)})
        rows.append({"task": "ATR"} | ask | now | {"gt": list(COLORS).index(second.color)})
        ends = [int(event.end_s) for event in scene.events]
        counts = [{"realtime": end, "count": k + 1} for k, end in enumerate(ends)]
        when = {"start_times": [event.start_s for event in scene.events], "end_times": ends}
        rows.append({"task": "REC", "video": video, "activity": "change", "test_info": counts} | when)
        steps = [{"realtime": end, "step": f"show {second.color}", "type": int(k == 1)} for k, end in enumerate(ends)]
        all_steps = [f"show {event.color}" for event in scene.events]
        when = {"all_steps": all_steps, "start_time": [event.start_s for event in scene.events], "end_time": ends}
        rows.append({"task": "SSR", "video": video, "tutorial": "shapes", "test_info": steps} | when)
        ready = {"video": video, "question": "What comes second?", "answer": second.words(), "ask_time": 0}
        ready |= {"clue_time": second.start_s}
        later = [{"realtime": end, "type": int(k >= 1)} for k, end in enumerate(ends)]
        rows.append({"task": "CRR"} | ready | {"test_info": later})
    return _write_json(root / "ovo_bench_new.json", [{"id": number} | row for number, row in enumerate(rows)])


def _streamingbench(root: Path, scenes: list[Scene], clips: list[bytes]) -> Path:
    rows, table, sequences, proactive = [], [], [], []
    for i, (scene, clip) in enumerate(zip(scenes, clips, strict=True), start=1):
        _write(root / "videos" / f"sample_{i}_real.mp4", clip)
        for k, event in enumerate(scene.events, start=1):
            at_s, question, answer = _ask(event)
            question_row = {"task_type": "Attribute Recognition", "question": question}
            question_row |= {"time_stamp": f"00:00:{at_s + 1:02}", "answer": answer}
            rows.append(
                {"video_path": f"./videos/sample_{i}_real.mp4", "questions": [question_row | {"options": OPTIONS}]}
            )
            number = {"question_id": f"Real-Time Visual Understanding_sample_{i}_{k}"}
            table.append(number | question_row | {"options": str(OPTIONS)})
        sequences.append([{**row, "questions": _bare(row["questions"])} for row in rows[-len(scene.events) :]])
        for before, event in pairwise(scene.events):
            said = {"question": f'When the shape is {event.color}, output "{event.color}".'}
            said |= {"task_type": "Proactive Output", "time_stamp": _clock(before.start_s)}
            said |= {"ground_truth_time_stamp": _clock(event.start_s), "ground_truth_output": event.color}
            proactive.append({"video_path": f"./videos/sample_{i}_real.mp4", "questions": [said]})
    _write_json(root / "questions_sqa.json", sequences)
    _write_json(root / "questions_proactive.json", proactive)
    with (root / "Real_Time_Visual_Understanding.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return _write_json(root / "questions_real.json", rows)


def _bare(questions: list[dict]) -> list[dict]:
    """As sequential ones are: options without letters."""
    kind = {"task_type": "Sequential Question Answering", "options": list(COLORS)}
    return [question | kind for question in questions]


def _clock(seconds: float) -> str:
    return f"00:{int(seconds) // 60:02}:{int(seconds) % 60:02}"


def _livesports(root: Path, scenes: list[Scene], clips: list[bytes]) -> Path:
    rows = []
    for (i, clip), scene in zip(enumerate(clips), scenes, strict=True):
        _write(root / "videos" / f"toy{i}.mp4", clip)
        for k, event in enumerate(scene.events):
            _, question, answer = _ask(event)
            question_row = {
                "question_id": k,
                "q_type": ("When", "What", "Who")[k % 3],
                "OCR": k % 2,
                "question": question,
            }
            span = {"video_start": event.start_s, "video_end": event.end_s}
            rows.append({"video_id": f"toy{i}"} | question_row | span | {"options": OPTIONS, "answer": answer})
    return _write_json(root / "LiveSports-3K-QA.json", rows)


def _svbench(root: Path, scenes: list[Scene], clips: list[bytes]) -> Path:
    """Chains of two questions an event, and links from the first of them to the second of the next event."""
    for i, (scene, clip) in enumerate(zip(scenes, clips, strict=True)):
        _write(root / "Video" / f"toy{i}.mp4", clip)
        chains = []
        for event in scene.events:
            chain = {
                "questions": ["What is there?", "Which way does it go?"],
                "answers": [event.shape, event.direction],
            }
            span = {"qac_timestamps_start": event.start_s, "qac_timestamps_end": event.end_s}
            chains.append({"images": [], "chain": chain} | span)
        links = {"relationship": {"chainBefore": [0], "chainAfter": [1], "relationship": ["Objects"]}}
        _write_json(root / "Dialogue/Dialogue_EN" / f"toy{i}.json", chains)
        _write_json(root / "Con/Con_EN" / f"toy{i}.json", [links] * (len(chains) - 1))
    return root


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)


def _write_json(path: Path, rows: list[dict]) -> Path:
    _write(path, json.dumps(rows, indent=1).encode() + b"\n")
    return path


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m swwatch.toy.quiz", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to: new or empty")
    parser.add_argument("--videos", type=int, default=4, help="clips that are asked about (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the clips (%(default)s)")
    args = parser.parse_args(argv)
    files = write_quiz(args.out, videos=args.videos, seed=args.seed)
    print("# CHECKPOINT: any Qwen2.5-VL or Qwen2-VL folder, such as `swwatch toy model FOLDER` makes")
    for name, path in files.items():
        videos = args.out / path.relative_to(args.out).parts[0] / _VIDEOS.get(name, "")
        print(f"swwatch quiz {name} --data {path} --videos {videos} --model CHECKPOINT")
    return 0


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
