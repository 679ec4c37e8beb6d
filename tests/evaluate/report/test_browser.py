"""The page in a real browser, where there is one: the clip browser works and no caption becomes code."""

import re
import subprocess
from html import unescape

import pytest

from swwatch.cli import run as run_program
from swwatch.evaluate.report.command import main
from tests.helpers.browser import find

BROWSER = find()
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH")


@pytest.fixture
def show(runs, tmp_path):
    """show(hash, script) -> (the page's elements after it ran, the browser's console), the script being a test's."""
    runs.judged()
    argv = [str(runs.make()), str(runs.make("slow", late_s=0.3)), "--out", str(tmp_path / "out")]
    assert run_program(main, argv) == 0

    def open_page(address: str = "", script: str = "") -> tuple[str, str]:
        page = tmp_path / "out/report.html"
        if script:
            text = re.sub("; script-src '[^']*'", "; script-src 'unsafe-inline'", page.read_text(encoding="utf-8"))
            page = tmp_path / "out/scripted.html"
            page.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        flags += ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=2000", "--dump-dom"]
        done = subprocess.run(
            [BROWSER, *flags, page.as_uri() + address], capture_output=True, text=True, timeout=120, check=True
        )
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return done.stdout, "\n".join(console)

    return open_page


def article(dom: str) -> str:
    return re.search(r'<article id="clip".*?</article>', dom, re.DOTALL)[0]


def words(part: str) -> str:
    return unescape(re.sub("<[^>]*>", "", part))


def test_the_browser_lists_all_clips_and_shows_the_first(show):
    dom, console = show()
    assert console == ""
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
    dom, console = show("#clip=7")
    assert console == "" and '<script>alert("x")</script></script><img src=x onerror=alert(1)> &' in words(
        article(dom)
    )
    assert "<img" not in article(dom) and "No frames: no video file" in words(article(dom))


def test_right_to_left_pieces_and_silence_are_shown(show):
    assert "يظهر الفيديو كرة حمراء" in words(article(show("#clip=rtl")[0])) and 'dir="auto"' in article(show()[0])
    pieces = unescape(article(show("#clip=pieces")[0]))
    assert (
        "“\u2068🙂\u2069” (3 tokens make it up): spoken at second 2" in pieces
        and "“\u2068視\u2069” (2 tokens make it up)" in pieces
    )
    assert words(article(show("#clip=silent")[0])).count("(empty caption)") == 2


def test_search_filter_sort_and_keys_work(show):
    script = """
      const out = document.createElement("pre"); out.id = "seen"; document.body.append(out);
      const ids = () => [...document.querySelectorAll("#list bdi")].map((e) => e.textContent).join(" ");
      const set = (id, value) => { const e = document.getElementById(id);
        if (e.type === "checkbox") e.checked = value; else e.value = value;
        e.dispatchEvent(new Event("input")); };
      const say = (name, value) => out.append(`${name}=${value};`);
      set("search", "RED ball"); say("search", ids()); set("search", "");
      set("filter", "with an empty caption"); say("filter", ids()); set("filter", "all clips");
      set("sort", "clip id"); say("sort", ids());
      set("sort", "Fluency, group"); set("descending", true); say("best", ids().split(" ").slice(0, 2).join(" "));
      set("sort", "staleness (s), difference of runs"); say("missing", ids().split(" ").at(-1));
      set("sort", "file order"); set("descending", false);
      document.querySelector(".head button:last-child").click();
      say("next", document.querySelector("#clip h3").textContent);
      document.querySelectorAll("#list button")[0].click();
      const first = document.querySelector(".token"); first.focus();
      first.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
      say("key", document.querySelector(".about").textContent.slice(0, 10));
      say("marked", document.querySelectorAll(".frames .spoken").length);
    """
    dom, console = show(script=script)
    seen = dict(part.split("=", 1) for part in words(re.search(r'<pre id="seen">.*?</pre>', dom)[0]).split(";")[:-1])
    assert console == ""
    assert seen == {
        "search": "plain",
        "filter": "silent",
        "sort": "7 pieces plain rtl silent",
        "best": "plain silent",
        "missing": "silent",
        "next": "7",
        "key": "“\u2068video\u2069”:",
        "marked": "1",
    }
