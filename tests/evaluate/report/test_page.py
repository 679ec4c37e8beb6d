"""The written page: nothing from outside, nothing unescaped, the same bytes every time; Markdown beside it."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swwatch.cli import run as run_program
from swwatch.evaluate.report.command import main
from swwatch.evaluate.report.html import script_json
from swwatch.evaluate.report.markdown import plain


class Page(HTMLParser):
    """The elements of a page, the content of its scripts and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.text = [], [], [], ""
        self.feed(text)
        self.data = json.loads(self.scripts[0])
        self.clips = {clip["id"]: clip for clip in self.data["clips"]}

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        if self.lasttag == "script":
            self.scripts.append(data) if data.strip() else None
        else:
            self.text += data


def report(runs, *argv, out="out"):
    assert run_program(main, [*map(str, argv), "--out", str(runs.folder / out)]) == 0
    return Page((runs.folder / out / "report.html").read_text(encoding="utf-8"))


def test_the_page_needs_nothing_from_outside(runs):
    page = report(runs, runs.make(), runs.make("other", trace=False))
    assert "link" in page.tags and not {"iframe", "object", "embed", "base"} & set(page.tags)
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action"):
            assert value.startswith(("#", "data:")), (name, value)
    text = (runs.folder / "out/report.html").read_text(encoding="utf-8")
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_only_our_own_script_may_run(runs):
    page = report(runs, runs.make())
    policy = (
        dict(page.attributes)["content"] if False else next(v for k, v in page.attributes if v and "script-src" in v)
    )
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy
    assert page.tags.count("script") == 2 and "img" not in page.tags and "b" in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_captions_come_through_letter_by_letter(runs):
    page = report(runs, runs.make())
    [said] = page.clips["7"]["runs"]
    assert said["text"].startswith('<script>alert("x")</script></script><img src=x onerror=alert(1)> & {{data}} $x$')
    assert "".join(token[0] for token in said["tokens"]).strip() == said["text"]
    assert page.clips["rtl"]["reference"] == "يظهر الفيديو كرة حمراء"
    assert [token[0] for token in page.clips["pieces"]["runs"][0]["tokens"]][:3] == ["", "", "🙂"]
    assert page.clips["silent"]["runs"][0]["tokens"] == [] and "<b>empty</b>" in page.text


def test_tokens_carry_step_newest_second_emission_and_staleness(runs):
    page = report(runs, runs.make())
    assert page.clips["plain"]["runs"][0]["tokens"][3] == ["ows", 1, 1, 1610, 110]


def test_a_trace_of_another_text_is_not_shown_as_this_captions(runs):
    path = runs.make()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["result"] = "something else"
    runs.lines(path.name, rows)
    page = report(runs, path)
    assert page.clips["plain"]["runs"][0]["tokens"] is None and page.clips["rtl"]["runs"][0]["tokens"]


def test_runs_stand_side_by_side_and_one_may_lack_a_trace_or_a_clip(runs):
    path, other = runs.make(), runs.make("other", trace=False)
    rows = [json.loads(line) for line in other.read_text().splitlines()][:2]
    runs.lines(other.name, rows)
    metrics = json.loads((runs.folder / "other_metrics.json").read_text())
    per_clip = metrics["scores"]["per_clip"]
    metrics["scores"]["per_clip"] = {key: per_clip[key] for key in ("plain", "7")}
    (runs.folder / "other_metrics.json").write_text(json.dumps(metrics))
    page = report(runs, path, other)
    assert page.data["runs"] == ["group", "other"]
    assert page.clips["plain"]["runs"][1]["tokens"] is None and page.clips["rtl"]["runs"][1] is None
    assert "none of 2 captions with the times of their words" in page.text


def test_frames_are_one_a_second_and_missing_videos_are_said(runs):
    page = report(runs, runs.make())
    frames = page.clips["plain"]["frames"]
    greys = []
    for uri in frames:
        picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
        greys.append(picture.convert("L").resize((1, 1)).getpixel((0, 0)))
    assert greys == pytest.approx([40, 80, 120, 160], abs=8)
    assert "frames" not in page.clips["7"] and "no video file" in page.clips["7"]["no_frames"]
    assert "2 of 5 clips are shown with their frames; the videos of 3 could not be read." in page.text


def test_frames_can_be_limited_and_found_elsewhere(runs, monkeypatch, capsys):
    path = runs.make()
    page = report(runs, path, "--frames", "1")
    assert "frames" in page.clips["plain"] and "Left out" in page.clips["rtl"]["no_frames"]
    (runs.folder / "videos").rename(runs.folder / "moved")
    assert "frames" not in report(runs, path).clips["plain"]
    assert "frames" in report(runs, path, "--img-root", runs.folder / "moved").clips["plain"]
    monkeypatch.setattr("swwatch.evaluate.report.page.PAGE_BYTES", 500_000)
    assert "frames" not in report(runs, path, "--img-root", runs.folder / "moved").clips["plain"]
    assert "left out to keep this page small" in capsys.readouterr().out
    assert run_program(main, [str(path), "--out", str(runs.folder / "x"), "--frames", "-1"]) == 2


def test_the_same_runs_give_the_same_files(runs):
    path = runs.make()
    report(runs, path, out="a"), report(runs, path, out="b")
    files = sorted(file.name for file in (runs.folder / "a").iterdir())
    assert files == ["first_token.png", "gaps.png", "report.html", "report.md", "staleness.png", "tokens_per_step.png"]
    for name in files:
        assert (runs.folder / "a" / name).read_bytes() == (runs.folder / "b" / name).read_bytes(), name


def test_half_a_character_does_not_stop_the_report(runs):
    path = runs.make(trace=False)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["result"] = "half \ud83d"
    runs.lines(path.name, rows)
    assert report(runs, path).clips["plain"]["runs"][0]["text"] == "half ?"


def test_markdown_has_the_tables_the_plots_and_clips_as_plain_text(runs):
    report(runs, runs.make())
    text = (runs.folder / "out/report.md").read_text(encoding="utf-8")
    for picture in re.findall(r"!\[[^]]*\]\(([^)]*)\)", text):
        assert (runs.folder / "out" / picture).is_file()
    assert "| *group, paper 3B* |" in text and "- reference: The video shows a red ball." in text
    assert r"\[1\] The video \[2\] shows \[3\] a red \[4\] ball." in text
    assert "<" not in re.sub(r"\\<", "", text)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) >= 3 for line in rows)


def test_a_mistake_is_one_line_and_exit_code_2(runs, capsys):
    assert run_program(main, [str(runs.folder / "none_infer.json"), "--out", str(runs.folder)]) == 2
    assert "there is no predictions file" in capsys.readouterr().err
    path = runs.make()
    assert run_program(main, [str(path), "--out", str(path)]) == 2  # a file, not a folder
    assert "cannot write" in capsys.readouterr().err


LETTERS = st.sampled_from("<>&/!-\u2028\u2029") | st.characters()


@given(st.recursive(st.text(LETTERS) | st.integers() | st.none(), st.lists, max_leaves=5))
def test_no_text_leaves_its_script_element(value):
    written = script_json(value)
    assert not set("<>&\u2028\u2029") & set(written) and json.loads(written) == value


@given(st.text(alphabet="a|*_<>[]`\\&#\n !~$"))
def test_no_text_is_markup_in_markdown(text):
    written = plain(text)
    assert "\n" not in written
    assert not re.search(r"[|*_<>\[\]`&#!~$]", re.sub(r"\\.", "", written))
    assert re.sub(r"\\(.)", r"\1", written) == " ".join(text.split())
