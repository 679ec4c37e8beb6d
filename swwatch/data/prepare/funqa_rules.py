"""The rules for one FunQA question: which are asked here, and what they are called. No files are opened here.

Of FunQA's tasks six have answers that can be told like a narration: the description (2) and the reasoning (3) of
HumorQA, CreativeQA and MagicQA. The others ask for moments (1), titles (4) and a score (5).
"""

from pathlib import PurePath

from swwatch.data.prepare.parts import digest
from swwatch.data.prepare.pe_video_rules import FilterLimits, clip_name, is_unicode
from swwatch.data.tasks import SUBTASKS

LIMITS = FilterLimits(caption_prefix="")  # PE-Video's filter without its opening words
KINDS = {"H": "humor", "C": "creative", "M": "magic"}  # the first letter of a video's name -> its folder
# Reasons that mean "this annotation is broken", against those that mean "well formed, but not wanted".
BROKEN = frozenset("not_an_object task_bad instruction_bad output_bad visual_input_bad ID_bad".split())
NO_VIDEO = frozenset("video_missing video_unreadable".split())


def problem_of(question) -> str | None:
    """Why an annotation is not a question of the six tasks; None when it is one.

    Tasks apart from the six give `task_<name>`. Reasons in BROKEN mean that the annotation is broken.
    """
    if not isinstance(question, dict):
        return "not_an_object"
    task = question.get("task")
    if not isinstance(task, str) or not task.strip():
        return "task_bad"
    if task not in SUBTASKS:
        return f"task_{task}"
    if not _is_text(question.get("instruction")) or not question["instruction"].strip():
        return "instruction_bad"
    if not _is_text(question.get("output")):
        return "output_bad"
    name = question.get("visual_input")
    if not isinstance(name, str) or clip_name(name) is None or name[0] not in KINDS:
        return "visual_input_bad"
    ident = question.get("ID")
    if ident is not None and (isinstance(ident, bool) or not isinstance(ident, int | str) or not str(ident).strip()):
        return "ID_bad"
    return None


def _is_text(value) -> bool:
    return isinstance(value, str) and is_unicode(value)


def video_id(question: dict) -> str:
    """A name for a question that stays the same wherever it stands: `<task>-<ID>`.

    Annotations without IDs give `<task>-<video>-<hash of question and answer>`: a video has many questions of a task.
    """
    task, ident = question["task"], question.get("ID")
    if ident is None:
        ident = f"{PurePath(question['visual_input']).stem}-{digest(question['instruction'], question['output'])[:8]}"
    return f"{task}-{ident}"


def record_of(question: dict, path: str, seconds: float) -> dict:
    """The question in the form that training and evaluation read, with the official fields beside it."""
    return question | {
        "video_id": video_id(question),
        "video_path": path,
        "video_duration_in_s": seconds,
        "human_caption": question["output"].strip(),
        "question": question["instruction"].strip(),
    }
