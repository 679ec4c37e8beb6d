"""The rules for one PE-Video record: which are kept, and where its video lies. No files are opened here."""

import math
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class FilterLimits:
    """What a kept record satisfies; all bounds inclusive. Source: protocol of arXiv 2601.06843."""

    min_duration_s: float = 5
    max_duration_s: float = 30
    min_tokens_per_s: float = 3  # the paper's K
    max_tokens_per_s: float = 5
    caption_prefix: str = "the video shows"  # compared in lower case


LIMITS = FilterLimits()

# Reasons that mean "this record is broken", against those that mean "well formed, but not wanted".
MALFORMED = frozenset(
    "unreadable not_utf8 bad_json not_an_object video_id_bad caption_missing caption_not_text duration_missing"
    " duration_not_a_number no_json_member no_video_member repeated_member unreadable_shard duplicate_video_id".split()
)


def duration_seconds(record: dict) -> float:
    """`video_duration_in_s` as a number; text such as "10" counts, as in the release.

    Raises:
        ValueError: one of the reasons `duration_missing` (absent or null) and `duration_not_a_number`.
    """
    value = record.get("video_duration_in_s")
    if value is None:
        raise ValueError("duration_missing")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("duration_not_a_number")
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        raise ValueError("duration_not_a_number") from None
    if not math.isfinite(seconds):
        raise ValueError("duration_not_a_number")
    return seconds


def caption_of(record: dict) -> str:
    """The caption whose tokens are counted: `human_caption` without white space at its ends."""
    return record["human_caption"].strip()


def check_text(record: dict, limits: FilterLimits = LIMITS) -> str | None:
    """Everything that needs no tokenizer: None when the record passes so far, else the reason."""
    try:
        seconds = duration_seconds(record)
    except ValueError as error:
        return str(error)
    if seconds < limits.min_duration_s:
        return "too_short"
    if seconds > limits.max_duration_s:
        return "too_long"
    if "human_caption" not in record:
        return "caption_missing"
    if record["human_caption"] is None:
        return "caption_null"  # most of the million clips have no human caption: unwanted, not broken
    if not isinstance(record["human_caption"], str) or not is_unicode(record["human_caption"]):
        return "caption_not_text"
    caption = caption_of(record)
    if not caption:
        return "caption_empty"
    if not caption.lower().startswith(limits.caption_prefix):
        return "caption_prefix"
    return None


def check_record(record: dict, num_tokens: int | None, limits: FilterLimits = LIMITS) -> str | None:
    """Whether a record is kept.

    Args:
        record: one PE-Video record (`video_duration_in_s`, `human_caption`).
        num_tokens: tokens of the stripped caption, no special tokens; may be None where there is no caption.
        limits: the bounds, all inclusive.
    Returns:
        None when kept, else a short stable reason such as `too_long` or `too_many_tokens`.
    """
    reason = check_text(record, limits)
    if reason:
        return reason
    tokens_per_s = num_tokens / duration_seconds(record)
    if tokens_per_s < limits.min_tokens_per_s:
        return "too_few_tokens"
    if tokens_per_s > limits.max_tokens_per_s:
        return "too_many_tokens"
    return None


def is_unicode(text: str) -> bool:
    """False for text with lone surrogates, which JSON can hold and no tokenizer or file can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def clip_name(video_id: int | str) -> str | None:
    """File name of a clip, `<video_id>.mp4`; None when the id is no plain file name (a path, empty, not text)."""
    if isinstance(video_id, bool) or not isinstance(video_id, int | str):
        return None
    name = str(video_id)
    plain = name and name == name.strip() and name not in (".", "..") and not set(name) & set("/\\\0")
    return f"{name}.mp4" if plain and is_unicode(name) and len(name.encode()) <= 200 else None


def id_from_stem(file_stem: str) -> int | str:
    """The id of a record that has none: its file's stem, as a number where it is one."""
    return int(file_stem) if file_stem.isascii() and file_stem.isdigit() else file_stem


def fill_video_path(record: dict, split: str, file_stem: str, folder: str = "dataset/PE-Video") -> None:
    """Set `video_path` to `<folder>/videos/<split>/<video_id>.mp4` where it is missing or empty.

    Without a `video_id` a numeric file stem stands in for it; any other stem leaves the record without a path,
    as in the release.
    """
    video_id = record.get("video_id")
    if video_id is None:
        video_id = id_from_stem(file_stem)
        if isinstance(video_id, str):
            video_id = None
    if not record.get("video_path") and video_id is not None:
        record["video_path"] = str(PurePosixPath(folder, "videos", split, f"{video_id}.mp4"))
