"""The page in a real browser, where there is one: the clip browser works and no caption becomes code."""

import re
from html import unescape

import pytest

from swwatch.cli import run as run_program
from swwatch.evaluate.report.command import main
from tests.helpers.browser import chromium, lacking

pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking())


@pytest.fixture
def opened(runs, tmp_path):
    """opened(hash) -> the report in a browser; its console must stay empty."""
    runs.judged()
    argv = [str(runs.make()), str(runs.make("slow", late_s=0.3)), "--out", str(tmp_path / "out")]
    assert run_program(main, argv) == 0
    told = []
    with chromium() as browser:

        def open_page(address: str = ""):
            page = browser.new_page()
            page.on("console", lambda message: told.append(message.text))
            page.on("pageerror", lambda error: told.append(str(error)))
            page.goto((tmp_path / "out/report.html").as_uri() + address)
            return page

        yield open_page
    assert told == []


@pytest.fixture
def show(opened):
    """show(hash) -> the page's elements after its script ran."""
    return lambda address="": opened(address).content()


def article(dom: str) -> str:
    return re.search(r'<article id="clip".*?</article>', dom, re.DOTALL)[0]


def words(part: str) -> str:
    return unescape(re.sub("<[^>]*>", "", part))


def test_the_browser_lists_all_clips_and_shows_the_first(show):
    dom = show()
    assert words(re.search(r'<p id="count".*?</p>', dom)[0]) == "5 of 5 clips"
    assert re.findall(r"<button[^>]*><bdi>(.*?)</bdi>", dom) == ["plain", "7", "rtl", "pieces", "silent"]
    clip = article(dom)
    assert clip.count('<img src="data:image/jpeg') == 4 and clip.count('class="card"') == 2
    spans = re.findall(r'<span class="tint tint(\d)" data-step="(\d)" data-second="(\d)">(.*?</span>)</span>', clip)
    assert [(tint, step, second) for tint, step, second, _ in spans[:4]] == [
        ("0", "0", "1"),
        ("1", "1", "2"),
        ("2", "2", "3"),
        ("3", "3", "4"),
    ]
    assert words(spans[1][3]) == "shows"
    assert "spoken at second 2 (step 1), newest second seen 2, emitted at 1.610 s, staleness 0.110 s" in unescape(clip)
    assert "staleness 0.310 s" in unescape(clip)


def test_a_caption_that_is_markup_stays_text(show):
    dom = show("#clip=7")
    assert '<script>alert("x")</script></script><img src=x onerror=alert(1)> &' in words(article(dom))
    assert "<img" not in article(dom) and "No frames: no video file" in words(article(dom))


def test_right_to_left_pieces_and_silence_are_shown(show):
    assert "يظهر الفيديو كرة حمراء" in words(article(show("#clip=rtl"))) and 'dir="auto"' in article(show())
    pieces = unescape(article(show("#clip=pieces")))
    assert (
        "“\u2068🙂\u2069” (3 tokens make it up): spoken at second 2" in pieces
        and "“\u2068視\u2069” (2 tokens make it up)" in pieces
    )
    assert words(article(show("#clip=silent"))).count("(empty caption)") == 2


def test_search_filter_sort_and_keys_work(opened):
    page = opened()

    def listed(**controls) -> list[str]:
        """The clips' names, in the list's order, after these controls were set."""
        for name, value in controls.items():
            control = page.locator(f"#{name}")
            if name == "descending":
                control.set_checked(value)
            elif name == "search":
                control.fill(value)
            else:
                control.select_option(value)
        return page.locator("#list bdi").all_text_contents()

    assert listed(search="RED ball") == ["plain"]
    assert listed(search="", filter="with an empty caption") == ["silent"]
    assert listed(filter="all clips", sort="clip id") == ["7", "pieces", "plain", "rtl", "silent"]
    assert listed(sort="Fluency, group", descending=True)[:2] == ["plain", "silent"]
    assert listed(sort="staleness (s), difference of runs")[-1] == "silent"
    listed(sort="file order", descending=False)

    page.locator(".head button").last.click()
    assert page.locator("#clip h3").text_content() == "7"

    page.locator("#list button").first.click()
    page.locator(".token").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".about").first.text_content().startswith("“\u2068video\u2069”:")
    assert page.locator(".frames .spoken").count() == 1
