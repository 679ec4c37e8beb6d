"""The record filter agrees with the reference, case by case, and with its rule on any record."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.data.prepare.pe_video_rules import MALFORMED, check_record, clip_name, fill_video_path

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "filter_cases.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_filter_and_video_path_agree_with_the_reference(case):
    record = dict(case["record"])
    reason = check_record(record, case["token_count"])
    assert (reason is None) == case["kept"], reason
    assert record == case["record"], "checking changes nothing"
    if case["kept"]:
        fill_video_path(record, case["split"], case["file_stem"])
        assert record.get("video_path") == case["output_video_path"]
        assert {k: v for k, v in record.items() if k != "video_path"} == {
            k: v for k, v in case["record"].items() if k != "video_path"
        }
    if case["reference_logged_error"] and case["name"] != "caption_null":
        assert reason in MALFORMED, "what the reference fails on is listed, not only counted"


@given(duration=st.floats(-1, 40), num_tokens=st.integers(0, 300))
def test_kept_means_all_three_bounds_hold(duration, num_tokens):
    record = {"video_duration_in_s": duration, "human_caption": "The video shows something"}
    wanted = 5 <= duration <= 30 and 3 <= num_tokens / duration <= 5
    assert (check_record(record, num_tokens) is None) == wanted


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=2)
)


@given(duration=json_values, caption=json_values)
def test_no_value_of_a_field_breaks_the_filter(duration, caption):
    reason = check_record({"video_duration_in_s": duration, "human_caption": caption}, 40)
    assert reason is None or reason.replace("_", "").isalpha()


@pytest.mark.parametrize("duration", [math.nan, math.inf, "nan", 10**400, True, [10]])
def test_durations_that_are_no_number_of_seconds_are_malformed(duration):
    record = {"video_duration_in_s": duration, "human_caption": "The video shows x"}
    assert check_record(record, 40) == "duration_not_a_number"


def test_a_caption_that_no_file_can_hold_is_malformed():
    record = {"video_duration_in_s": 10, "human_caption": "The video shows \ud800"}
    assert check_record(record, 40) == "caption_not_text"


@pytest.mark.parametrize(
    "video_id", ["../x", "a/b", "..", "", " a", "a\0", "\ud800", 1.5, True, None, ["a"], "x" * 300]
)
def test_ids_that_are_no_file_name_give_no_clip_name(video_id):
    assert clip_name(video_id) is None


def test_plain_ids_name_their_clip():
    assert [clip_name(video_id) for video_id in (101, "clip_x", "Füchse")] == ["101.mp4", "clip_x.mp4", "Füchse.mp4"]
