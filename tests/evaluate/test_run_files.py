"""Reading predictions that were cut, repeated or edited: nothing is lost in silence, the file is left as it is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.errors import UserError
from swwatch.evaluate.run_files import read_object, read_run


def line(key, result="a red circle", **more):
    return json.dumps({"video_id": key, "annotation": "a circle", "result": result, **more}, ensure_ascii=False) + "\n"


@pytest.fixture
def write(tmp_path):
    def to_file(content):
        path = tmp_path / "run_infer.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to_file


def refused(path):
    before = path.read_bytes()
    with pytest.raises(UserError) as error:
        read_run(path)
    assert path.read_bytes() == before
    return str(error.value)


def test_sound_file_has_no_problem_and_keeps_its_order(write):
    got = read_run(write(line(7) + "\n" + line("b") + line(1).rstrip("\n")))
    assert list(got.rows) == ["7", "b", "1"] and got.problems == {} and got.describe() == []


@given(cut=st.integers(min_value=1))
def test_cut_anywhere_in_the_last_line_loses_that_line_only_and_says_so(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "run_infer.json"
    last = line(2, "ein größerer Kreis").rstrip("\n").encode()
    cut = 1 + cut % (len(last) - 1)
    path.write_bytes(line(1).encode() + last[:cut])
    got = read_run(path)
    assert list(got.rows) == ["1"] and got.problems == {"cut_last_line": 2}
    assert "line 2" in got.describe()[0]
    assert path.read_bytes() == line(1).encode() + last[:cut]


def test_line_cut_in_the_middle_of_the_file_is_an_error(write):
    assert "line 1: not valid JSON" in refused(write(line(1)[:30] + "\n" + line(2)))


def test_equal_duplicates_are_counted_and_contradictions_listed(write):
    got = read_run(write(line(1) + line(2) + line("1", messages=[]) + line(1)))
    assert list(got.rows) == ["1", "2"] and got.problems == {"identical_duplicates": 2}
    said = refused(write(line(1) + line(2) + line(1, "other") + line(2) + line(1, "third")))
    assert "1 clips" in said and "1: lines 1, 3, 5" in said and "2: lines" not in said


def test_missing_references_and_empty_captions_are_listed_and_kept(write):
    got = read_run(write(line(1, " ") + line(2, annotation=None) + line(3, annotation="") + line(4)))
    assert list(got.rows) == ["1", "2", "3", "4"]
    assert got.problems == {"without_reference": ["2", "3"], "empty_captions": ["1"]}
    assert "2 of 4 clips without a reference" in got.describe()[0] and "2, 3" in got.describe()[0]


def test_text_that_is_not_utf8_names_its_line_and_the_way_out(write):
    said = refused(write(line(1).encode() + line(2, "größer").encode("latin-1") + line(3).encode()))
    assert "line 2: not UTF-8" in said and "iconv" in said
    assert "not UTF-8" in refused(write(line(1).encode("utf-16")))


def test_utf8_mark_and_windows_line_ends_are_harmless(write):
    got = read_run(write(b"\xef\xbb\xbf" + (line(1) + line(2)).replace("\n", "\r\n").encode()))
    assert list(got.rows) == ["1", "2"] and not got.problems


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ('{"video_id": 1, "res', "is empty but a line that is cut"),
        ("[1]\n", "list"),
        (json.dumps({"result": "a"}) + "\n", "no video_id"),
        (json.dumps({"video_id": True, "result": "a"}) + "\n", "video_id True"),
        (json.dumps({"video_id": 1}) + "\n", "no result"),
        (json.dumps({"video_id": 1, "result": None}) + "\n", "result is None"),
        (json.dumps({"video_id": 1, "result": "a", "annotation": ["b"]}) + "\n", "annotation is list"),
        ("video_id,result\n1,a", "not valid JSON"),
    ],
)
def test_what_is_no_prediction_is_refused_with_a_reason(write, content, said):
    assert said in refused(write(content))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no predictions file .*nothing_infer.json"):
        read_run(tmp_path / "nothing_infer.json")


def test_objects_beside_predictions_may_be_absent_but_not_broken(tmp_path):
    path = tmp_path / "run_run.json"
    assert read_object(path) == {}
    path.write_text('{"a": 1}')
    assert read_object(path) == {"a": 1}
    for content in ("{", "[1]", b"\xff{}"):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError, match="run_run.json .*make it again"):
            read_object(path)
