"""The live page in real headless Chromium with a fake camera: against a scripted server, then against the real one."""

import io
import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from swwatch.toy.clips import render
from swwatch.toy.world import make_scene
from tests.helpers.browser import PATIENCE_S, chromium, lacking, wait, wait_for
from tests.helpers.scripted_page_server import INFO, TEXT, ScriptedServer

pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking())

SAID = "[...document.querySelectorAll('.pane:nth-child({}) .word')].map(word => word.firstChild.data).join(' ')"
CONTROLS = {"button", "textbox", "combobox", "radio", "checkbox", "slider", "spinbutton", "link", "image", "log"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium whose camera shows toy shapes."""
    folder = tmp_path_factory.mktemp("browser")
    scene, camera = make_scene(3, 0), folder / "camera.mjpeg"
    with av.open(str(camera), "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuvj420p"
        for i in range(round(scene.duration_s * 10)):
            frame = av.VideoFrame.from_ndarray(render(scene, i / 10), format="rgb24")
            frame = frame.reformat(320, 240, "yuvj420p")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with chromium(camera) as browser:
        yield browser


@pytest.fixture
def scripted():
    server = ScriptedServer()
    yield server
    server.close()


@pytest.fixture
def visit(browser, scripted):
    """visit(url, **how) -> a page that can be started; in the end nothing was wrong, nothing left the origin.

    `expected` is part of what the browser itself reports of broken sockets and refusals, which some tests are about.
    Pages are closed before the server is, which they would try to reach again.
    """
    seen = []

    def go(
        url: str,
        *,
        ready: str = "!document.querySelector('#start').disabled",
        size: tuple[int, int] = (1280, 860),
        dark: bool = False,
        expected: str | None = None,
    ):
        scheme, (width, height) = "dark" if dark else "light", size
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(1000 * PATIENCE_S)
        page, problems, asked = context.new_page(), [], []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(error.stack))
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        seen.append((context, url.split("#")[0].split("//")[1].rstrip("/"), problems, asked, expected))
        page.goto(url)
        wait(page, ready)
        return page

    yield go
    for context, host, problems, asked, expected in seen:
        context.close()
        assert not [problem for problem in problems if expected is None or expected not in problem]
        assert all(address.split("//")[-1].startswith(host) or address.startswith("blob:") for address in asked), asked


def box(page, selector: str) -> dict:
    """Where an element lies in the window, in pixels."""
    return page.evaluate(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()")


def words(page, count: int = 1, pane: int = 1) -> str:
    """Wait for so many words of a pane; all it has said."""
    wait(page, f"document.querySelectorAll('.pane:nth-child({pane}) .word').length >= {count}")
    return page.evaluate(SAID.format(pane))


def state(page, name: str, pane: int = 1) -> str:
    """Wait for a state of a pane's connection; its sentence."""
    cell = f"document.querySelector('.pane:nth-child({pane}) .state')"
    wait(page, f"{cell}.dataset.state === '{name}'")
    return page.evaluate(f"{cell}.textContent")


def choose(page, source: str) -> None:
    page.click(f"[name=source][value={source}]")


def painted(page, selector: str) -> np.ndarray:
    """What is on the screen where an element lies, (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(page.locator(selector).first.screenshot())).convert("RGB")).astype(int)


# --- what is said, and what it had seen ---


def test_words_of_the_camera_appear_live_and_are_painted(visit, scripted):
    page = visit(scripted.url)
    before = painted(page, ".text")
    page.click("#start")
    said = words(page, 6)
    assert TEXT.startswith(said), "in order, nothing doubled"
    assert page.evaluate("document.querySelector('#video').videoWidth") == 320
    page.evaluate("document.querySelector('#panes').scrollIntoView()")
    word = painted(page, ".word:last-of-type")
    assert word.min() < 90 and word.max() > 200, "dark letters on a light ground where the document says the word is"
    after = painted(page, ".text")
    rows = min(len(before), len(after))  # where it lies between two pixels it may count a row more
    assert len(before) + len(after) <= 2 * rows + 1 and (before[:rows] != after[:rows]).any()
    assert wait(page, "document.querySelector('.word.fresh') !== null"), "the newest words are lit"

    numbers, times, heads = zip(*scripted.frames, strict=True)
    assert numbers == tuple(range(len(numbers))) and set(heads) == {b"\xff\xd8"}, "JPEG, numbered"
    assert all(later > earlier for earlier, later in pairwise(times))


@pytest.mark.parametrize("way", ["pointer", "keyboard", "click"])
def test_a_word_shows_the_second_that_it_saw(visit, scripted, way):
    page = visit(scripted.url)
    page.click("#start")
    words(page, 5)
    page.evaluate("document.querySelector('#panes').scrollIntoView()")
    second = "[...document.querySelectorAll('.word')].findIndex(word => word.classList.contains('marked'))"
    if way == "pointer":
        page.hover(".word:nth-of-type(5)")
    elif way == "click":
        page.click(".word:nth-of-type(5)")
        assert page.evaluate("document.querySelector('[aria-pressed=true].word') !== null")
    else:
        page.keyboard.press("w")
        for _ in range(4):
            page.keyboard.press("ArrowRight")
    wait(page, f"{second} === 4")
    detail = page.evaluate("document.querySelector('[data-part=detail]').textContent")
    step = [event for event in scripted.sessions["session-0"].told if event["type"] == "token"][4]
    assert f"“red” saw 0–{step['newest_visible_step'] + 0.5} s, said at {step['t_emit_s']:.1f} s" in detail
    assert wait(page, "document.querySelectorAll('.timeline .newest').length === 1")
    assert page.evaluate("document.querySelector('[data-part=thumb]').checkVisibility()"), "the picture of that second"
    light = page.evaluate(
        "(() => { const thumb = document.querySelector('[data-part=thumb]'), paper = thumb.getContext('2d');"
        "const [w, h] = [Math.floor(thumb.width / 2), Math.floor(thumb.height / 2)];"
        "return [[0, 0], [w, 0], [0, h]].map(([x, y]) => Math.max(...paper.getImageData(x, y, w, h).data"
        ".filter((_, i) => i % 4 < 3))); })()"
    )
    assert max(light[1], light[2]) < 70, "what the model did not look at is dark, whatever is there"
    assert "did not look at the 2 places" in page.evaluate("document.querySelector('[data-part=thumb]').ariaLabel")
    described = page.evaluate("document.querySelector('.word:nth-of-type(5)').getAttribute('aria-description')")
    assert described in detail
    assert page.evaluate("document.querySelector('.word:nth-of-type(4)').dataset.second") == "2", (
        "each step's first word"
    )


def test_a_file_is_played_to_its_end_and_its_rest_is_said(visit, scripted, clip):
    page = visit(scripted.url)
    choose(page, "video")
    page.set_input_files("#video-file", clip)
    page.click("#start")
    assert state(page, "closed") == "finished"
    assert page.evaluate(SAID.format(1)) == TEXT
    times = [at for _, at, _ in scripted.frames]
    assert times[0] == 0 and len(times) > 1 and times[-1] < 2.0, "the file's own seconds"
    assert page.evaluate("document.querySelector('.timeline').ariaLabel").endswith("0 steps dropped.")
    page.evaluate("document.querySelector('details[data-part=details]').open = true")
    rows = wait(page, "[...document.querySelectorAll('[data-part=table] tr')].map(row => row.innerText)")
    assert "The video shows" in " ".join(rows), "the timeline as text"


def test_a_shared_screen_is_narrated(visit, scripted):
    page = visit(scripted.url)
    choose(page, "screen")
    page.click("#start")
    assert TEXT.startswith(words(page, 3))


def test_two_panes_watch_the_same_pictures(visit, scripted):
    page = visit(scripted.url)
    page.click("#add")
    page.evaluate("document.querySelector('.pane:nth-child(2) [data-part=engine]').value = 'fused'")
    page.click("#start")
    assert TEXT.startswith(words(page, 3, pane=1)) and TEXT.startswith(words(page, 3, pane=2))
    opened = [message for message in scripted.got if message["type"] == "open"]
    assert [(message["variant"], message["engine"]) for message in opened] == [
        ("group", None),
        ("interleave", "fused"),
    ]
    by_time = {at: 0 for _, at, _ in scripted.frames}
    for _, at, _ in scripted.frames:
        by_time[at] += 1
    assert max(by_time.values()) == 2, "one picture went to both"
    left, right = box(page, ".pane:nth-child(1)"), box(page, ".pane:nth-child(2)")
    assert left["right"] <= right["left"] and left["top"] == right["top"], "side by side"
    page.click("#add")
    wait(page, "document.querySelectorAll('.pane').length === 1")
    wait_for(lambda: {"type": "stop"} in scripted.got, "the second session to be stopped")
    words(page, 9)


def test_ask_pause_and_stop_in_mid_speech(visit, scripted):
    page = visit(scripted.url)
    page.click("#start")
    words(page, 3)
    page.evaluate("document.querySelector('#question').value = 'What turns?'")
    page.click("#ask-button")
    wait(page, "document.querySelector('.question')?.textContent.includes('What turns?')")
    page.click("#pause")
    wait(page, "document.querySelector('.state').textContent === 'silent, watching'")
    assert page.evaluate("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"
    session = scripted.sessions["session-0"]
    wait_for(lambda: session.silent, "the server to hear it")
    steps, spoken = session.steps, session.spoken
    wait_for(lambda: session.steps > steps + 1, "steps that are watched in silence")
    assert session.spoken == spoken
    page.click("#pause")
    words(page, spoken + 3)
    page.click("#stop")
    assert state(page, "closed") == "stopped"
    assert [message["type"] for message in scripted.got] == ["open", "ask", "pause", "resume", "stop"]
    wait(page, "!document.querySelector('#video').srcObject")
    assert page.evaluate("document.querySelector('#start').disabled") is False


def test_the_question_shown_is_the_models_own_until_another_is_written(visit, scripted):
    page = visit(scripted.url)
    field = "document.querySelector('#question').value"
    variant = "document.querySelector('[data-part=variant]')"
    choose_variant = f"{variant}.value = '{{}}'; {variant}.dispatchEvent(new Event('change'))"
    assert page.evaluate(field) == INFO["question"]
    page.evaluate(choose_variant.format("livecc"))
    assert page.evaluate(field) == "Commentate." and page.evaluate(
        "document.querySelector('[data-part=schedule]').disabled"
    )
    page.click("#start")
    words(page)
    page.click("#stop")
    state(page, "closed")
    page.evaluate(f"{field} = 'What turns?'")
    page.evaluate(choose_variant.format("group"))
    wait(page, "!document.querySelector('#start').disabled")
    page.click("#start")
    state(page, "live")
    asked = [(message["variant"], message["question"]) for message in scripted.got if message["type"] == "open"]
    assert asked == [("livecc", None), ("group", "What turns?")], "its own is not sent: each pane's model has one"


def note_what_is_read_out(page) -> None:
    """From now on: the texts of what is added to the log, in `window.read`."""
    page.evaluate("window.read = []")
    page.evaluate("""new MutationObserver(changes => changes.forEach(({addedNodes}) =>
        addedNodes.forEach(node => read.push(node.textContent)))).observe(
        document.querySelector('[role=log]'), {childList: true})""")


def test_chat_turns_are_shown_with_their_seconds_and_silence(visit, scripted):
    page = visit(scripted.url)
    variant = "document.querySelector('[data-part=variant]')"
    page.evaluate(f"{variant}.value = 'livecc'; {variant}.dispatchEvent(new Event('change'))")
    page.evaluate("document.querySelector('#rate').value = 10")
    note_what_is_read_out(page)
    page.click("#start")
    wait(page, "document.querySelectorAll('.silence')[1]?.dataset.second.endsWith('6')")
    page.click("#finish")
    state(page, "closed")
    labels = page.evaluate(
        "[...document.querySelectorAll('[data-second]')].map(part => part.dataset.second + part.textContent)"
    )
    assert labels[:4] == ["0–1The", "1–3…", "3–4a", "4–6…"], "silences that follow one another are one"
    assert page.evaluate("document.querySelector('.silence').ariaLabel") == "silent from 1 to 3 s"
    assert "..." not in page.evaluate("document.querySelector('[data-part=text]').textContent"), "dots are no words"
    assert page.evaluate("read")[:2] == ["The video shows", "a red circle"], "a turn is read out whole"
    assert page.evaluate("document.querySelectorAll('.timeline .turn.silent').length") >= 4
    assert "of them silent" in page.evaluate("document.querySelector('.timeline').ariaLabel")


def test_silence_that_is_decided_what_is_not_looked_at_and_thoughts_have_places_of_their_own(visit, scripted):
    scripted.decides = True
    page = visit(scripted.url)
    page.click("#start")
    wait(page, "document.querySelectorAll('.timeline .turn.silent').length >= 2")
    assert page.evaluate("document.querySelector('.silence').ariaLabel") == "silent from 1 to 2 s"
    page.click("#finish")
    state(page, "closed")
    notes = page.evaluate("[...document.querySelectorAll('.mind:not([hidden]) li')].map(note => note.textContent)")
    assert notes[0] == " thought 0 thought 2" and "thought" not in page.evaluate(
        "document.querySelector('.text').textContent"
    )
    assert page.evaluate("document.querySelector('.thoughts li').dataset.second") == "1"
    bars = "[...document.querySelectorAll('.timeline .step{}')].map(bar => bar.height.baseVal.value)"
    assert page.evaluate(bars.format(".unseen"))[:2] == [10, 10], "steps 1 and 2, of which not all was looked at"
    assert page.evaluate(bars.format(":not(.unseen)"))[:3] == [10, 5, 10], (
        "step 0, half of step 1, nothing of step 2, step 3"
    )
    text = page.evaluate("document.querySelector('.timeline').ariaLabel")
    assert "steps seen (1 in part, 1 not looked at)" in text and "steps silent" in text
    page.click("summary:has(~ .scroll)")  # the table is filled when the page hears that it is open
    wait(page, "document.querySelectorAll('.scroll table tr').length > 1")
    table = page.evaluate("document.querySelector('.scroll table').textContent")
    assert "(50 %)" in table and "(0 %)" in table and "silent about 1–2 s" in table


def test_a_broken_socket_is_shown_and_nothing_is_lost_or_doubled(visit, scripted):
    scripted.break_after, scripted.full = 5, 1
    page = visit(scripted.url, expected="WebSocket")
    page.evaluate("""(() => {
        window.states = [];
        const cell = document.querySelector('.state');
        new MutationObserver(() => states.push(cell.dataset.state)).observe(cell, {attributes: true});
    })()""")
    page.click("#start")
    said = words(page, 12)
    assert TEXT.startswith(said)
    assert "reconnecting" in page.evaluate("states") and state(page, "live") == "live"
    first, refused, again = (message for message in scripted.got if message["type"] == "open")
    assert first.get("resume") is None and refused == again and again["resume"] == "session-0"
    assert again["seen"] >= 0, "what it had is not asked for again"


def test_orders_that_hold_for_good_are_told_again_after_a_break(visit, scripted):
    scripted.break_after = 8  # time enough to pause before it
    page = visit(scripted.url, expected="WebSocket")
    page.evaluate("""new MutationObserver(() => document.querySelector('.state').dataset.state === 'reconnecting'
        && document.querySelector('#finish').click()).observe(document.querySelector('.state'), {attributes: true})""")
    page.click("#start")
    words(page, 3)
    page.evaluate("document.querySelector('#pause').click()")
    assert state(page, "closed") == "finished", "the end that was told while there was no connection"
    assert [message["type"] for message in scripted.got] == ["open", "pause", "open", "pause", "end"]
    assert page.evaluate("document.querySelector('.notes').textContent") == ""


def test_a_slow_server_makes_the_page_leave_frames_out_and_say_so(visit, scripted):
    scripted.slow = 1.0
    page = visit(scripted.url)
    page.evaluate("document.querySelector('#rate').value = 20")
    page.click("#start")
    wait(page, "+document.querySelector('[data-number=skipped]').textContent > 3")
    assert len(scripted.frames) < 8 + 20, "it does not pile frames up"


def test_a_token_is_asked_for_or_taken_from_the_address(visit, scripted):
    scripted.token = "a-good-token"
    page = visit(scripted.url, ready="!document.querySelector('#access').hidden", expected="401")
    assert "token" in page.evaluate("document.querySelector('#message').textContent")
    page.evaluate("document.querySelector('#token').value = 'a-good-token'")
    page.click("#access button")
    wait(page, "!document.querySelector('#start').disabled && document.querySelector('#access').hidden")
    page = visit(f"{scripted.url}#token=a-good-token")
    assert page.evaluate("location.hash") == "", "it does not stay in the address bar"


# --- recordings ---


def recording(path: Path, start_s: float = 2.0) -> Path:
    """A session of six seconds as the server records one; its stream began `start_s` after it was opened."""
    lines = [{"type": "opened", "variant": "group", "engine": "serial", "schedule": "wait-k:3", "at_s": 0.0}]
    spoken = [" " * (i > 0) + word for i, word in enumerate(TEXT.split())]
    for step in range(6):
        seen = {"step": step, "newest_visible_step": step, "t_frame_s": step + 0.5, "lag_s": 0.1}
        lines.append({"type": "watched", "step": step, "arrival_s": step + 0.5, "t_s": step + 0.55})
        lines += [{"type": "token", "text": text, "t_emit_s": step + 0.6, **seen} for text in spoken[3 * step :][:3]]
    for line in lines[1:]:
        line["at_s"] = start_s + line.get("t_emit_s", line.get("t_s"))
    lines.append({"type": "end", "reason": "finished", "tokens": 18, "recording": None, "at_s": start_s + 6})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_recording_is_told_again_and_can_be_wound(visit, scripted, tmp_path, clip):
    page = visit(scripted.url)
    choose(page, "recording")
    page.set_input_files("#recording-file", recording(tmp_path / "session.jsonl"))
    page.set_input_files("#recording-video", clip)
    page.click("#start")
    assert TEXT.startswith(words(page, 3)) and words(page, 3) != TEXT, "at its own pace"
    to = "(m => {{ m.value = {}; m.dispatchEvent(new Event('input')) }})(document.querySelector('#moment'))"
    page.evaluate(to.format(6))
    wait(page, f"{SAID.format(1)} === {json.dumps(TEXT)}")
    page.click("#play")
    page.evaluate(to.format(0))
    page.evaluate(to.format(1))
    assert page.evaluate(SAID.format(1)) == "The video shows"
    page.click(".word:nth-of-type(2)")
    wait(page, "Math.abs(document.querySelector('#video').currentTime - 0.6) < 0.3")
    assert page.evaluate("document.querySelector('[data-part=detail]').textContent").startswith("“video” saw 0–0.5 s")


def test_a_file_that_is_no_recording_is_refused_with_its_name(visit, scripted, tmp_path):
    (tmp_path / "other.jsonl").write_text('{"video_id": 1}\n')
    page = visit(scripted.url)
    choose(page, "recording")
    page.set_input_files("#recording-file", tmp_path / "other.jsonl")
    page.click("#start")
    wait(page, "document.querySelector('#message').textContent.startsWith('other.jsonl: This is no recording')")
    assert page.evaluate("document.querySelector('#start').disabled") is False


# --- for everybody ---


def test_nothing_is_wider_than_a_phone(visit, scripted):
    page = visit(scripted.url, size=(360, 740))
    too_wide = """[...document.querySelectorAll('body *')].filter(one => one.checkVisibility()
        && !one.closest('.said, .skip, .timeline') && one.getBoundingClientRect().right > innerWidth + 0.5)
        .map(one => one.outerHTML.slice(0, 80))"""
    page.evaluate("document.querySelector('#more').open = true")
    for source in ("camera", "video", "file", "url", "recording"):
        choose(page, source)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360 and page.evaluate(too_wide) == [], source
    choose(page, "camera")
    page.click("#add")
    page.click("#start")
    words(page, 6, pane=2)
    page.click(".word")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360 and page.evaluate(too_wide) == []
    assert box(page, ".pane:nth-child(2)")["top"] > box(page, ".pane:nth-child(1)")["bottom"], "one below the other"


LUMINANCE = """((rgb) => rgb.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0))"""
CONTRAST = """((selector) => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const ground = (one) => {
        const colour = numbers(getComputedStyle(one).backgroundColor);
        return colour.length === 4 && colour[3] === 0 ? ground(one.parentElement) : colour.slice(0, 3);
    };
    const one = document.querySelector(selector);
    const inks = [numbers(getComputedStyle(one).color)];
    const label = getComputedStyle(one, '::before');
    if (label.content !== 'none') inks.push(numbers(label.color));
    return Math.min(...inks.map(ink => {
        const [dark, light] = [ink.slice(0, 3), ground(one)].map(LUMINANCE).sort((a, b) => a - b);
        return (light + .05) / (dark + .05);
    }));
})""".replace("LUMINANCE", LUMINANCE)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out_from_its_ground(visit, scripted, dark):
    page = visit(scripted.url, dark=dark)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) == dark
    page.emulate_media(reduced_motion="reduce")
    shown = [
        "h1",
        "#model",
        "#curtain",
        "#hint",
        "#start",
        "label",
        "summary",
        ".state",
        "[data-part=detail]",
        "dt",
        "dd",
    ]
    contrasts = {selector: page.evaluate(f"{CONTRAST}('{selector}')") for selector in shown}
    page.click("#start")
    words(page, 4)
    page.evaluate("document.querySelector('.word').click()")
    contrasts |= {
        selector: page.evaluate(f"{CONTRAST}('{selector}')") for selector in ("#stop", ".word.marked", ".state")
    }
    wait(page, "document.querySelector('.word.fresh:not(.marked)') !== null")
    contrasts["fresh"] = page.evaluate(f"{CONTRAST}('.word:last-of-type')")
    assert {selector: round(ratio, 1) for selector, ratio in contrasts.items() if ratio < 4.5} == {}
    assert page.evaluate("getComputedStyle(document.querySelector('.word')).transitionDuration") == "0s", (
        "reduced motion"
    )


def test_everything_can_be_done_with_the_keyboard_and_focus_is_seen(visit, scripted):
    page = visit(scripted.url)
    here = "(one => one.id || one.dataset.part || one.value || one.className || one.tagName)(document.activeElement)"
    page.evaluate("document.querySelector('#more').open = true")
    reached, outlined = [], []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(here))
        outlined.append(
            page.evaluate("""(one => [one, one.nextElementSibling].some(part =>
                part && getComputedStyle(part).outlineStyle === 'solid'))(document.activeElement)""")
        )
        if reached[-1] == "add":
            break
    wanted = {
        "help",
        "camera",
        "question",
        "start",
        "rate",
        "policy",
        "record",
        "variant",
        "engine",
        "schedule",
        "add",
    }
    assert wanted <= set(reached) and all(outlined), list(zip(reached, outlined, strict=True))

    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("s")
    words(page, 3)
    page.keyboard.press("w")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('.word[aria-pressed=true]').textContent") == "video"
    page.keyboard.press("p")
    wait(page, "document.querySelector('#pause').getAttribute('aria-pressed') === 'true'")
    page.keyboard.press("q")
    wait(page, "document.activeElement.id === 'question'")
    page.evaluate("document.activeElement.select()")
    page.keyboard.insert_text("What stops?")
    page.keyboard.press("Enter")
    wait(page, "document.querySelector('.question')?.textContent.includes('What stops?')")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Shift+?")
    wait(page, "document.querySelector('#shortcuts').open")
    page.keyboard.press("Escape")
    wait(page, "!document.querySelector('#shortcuts').open")
    page.keyboard.press("2")
    wait(page, "document.querySelectorAll('.pane').length === 2")
    page.keyboard.press("x")
    assert state(page, "closed") == "stopped"
    page.click("#help")
    page.click("#keys")
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    assert page.evaluate("document.querySelectorAll('.pane').length") == 2, "letters can be switched off"


def test_every_control_has_a_name_and_phrases_are_read_out_whole(visit, scripted):
    page = visit(scripted.url)
    page.evaluate("document.querySelector('#more').open = true")
    page.click("#add")
    note_what_is_read_out(page)
    page.click("#start")
    words(page, 9)
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    named = {}
    for node in tree:
        if not node["ignored"] and (role := node["role"]["value"]) in CONTROLS:
            named.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    assert all(all(names) for names in named.values()), named
    assert {"button", "textbox", "combobox", "radio", "checkbox", "image", "log"} <= set(named)
    page.click("#finish")
    state(page, "closed")
    phrases = page.evaluate("read")
    assert phrases == [
        "The video shows a red circle moving left,",
        "a blue square moving up,",
        "a green triangle moving right.",
    ]
    assert page.evaluate("document.querySelector('[role=log]').ariaLive") == "polite"


# --- with the real server and a real, random model ---


def test_the_camera_is_narrated_by_the_real_server_and_its_recording_told_again(visit, server, tmp_path):
    page = visit(server.url + "/")
    page.click("#more summary")
    page.click("#record")
    page.click("#start")
    words(page)
    page.evaluate("document.querySelector('#panes').scrollIntoView()")
    word = painted(page, ".word")
    assert word.max() - word.min() > 120, "painted where the document says it is"
    seconds = page.evaluate(
        "[...document.querySelectorAll('.word')].map(word => word.getAttribute('aria-description'))"
    )
    assert all(" saw 0–" in second and " said at " in second for second in seconds)
    wait(page, "document.querySelector('[data-number=frames]').textContent !== '–'")
    wait(page, "document.querySelector('#video').textTracks[0].activeCues?.length === 1")  # on the picture, live
    page.click("#finish")
    assert state(page, "closed") == "finished"
    said = page.evaluate(SAID.format(1))
    cues = (
        "[...document.querySelector('#video').textTracks[0].cues].map(cue => cue.getCueAsHTML().textContent).join('')"
    )
    wait_for(lambda: "".join(page.evaluate(cues).split()) == "".join(said.split()), "all that was said as subtitles")

    wait(page, "document.querySelector('[data-part=downloads]').checkVisibility()")
    for kind in ("jsonl", "vtt"):
        with page.expect_download() as download:
            page.click(f"[data-part={kind}]")
        download.value.save_as(tmp_path / download.value.suggested_filename)
    assert next(tmp_path.glob("swwatch-*.vtt")).read_text().startswith("WEBVTT")
    choose(page, "recording")
    page.set_input_files("#recording-file", next(tmp_path.glob("swwatch-*.jsonl")))
    page.click("#start")
    page.evaluate("(m => { m.value = m.max; m.dispatchEvent(new Event('input')) })(document.querySelector('#moment'))")
    wait(page, f"{SAID.format(1)} === {json.dumps(said)}")


def test_two_engines_say_the_same_of_a_file_on_the_real_server(visit, server):
    page = visit(server.url + "/")
    choose(page, "file")
    wait(page, "document.querySelector('#server-file').options.length > 1")
    page.evaluate("document.querySelector('#server-file').value = 'sub/clip.mp4'")
    page.click("#add")
    for pane, engine in ((1, "serial"), (2, "fused")):
        page.evaluate(f"document.querySelector('.pane:nth-child({pane}) [data-part=engine]').value = '{engine}'")
    page.click("#start")
    assert state(page, "closed", 1) == state(page, "closed", 2) == "finished"
    assert page.evaluate(SAID.format(1)) == page.evaluate(SAID.format(2)) != ""
    assert "serial" in page.evaluate("document.querySelector('.pane:nth-child(1) h2').textContent")
    assert "fused" in page.evaluate("document.querySelector('.pane:nth-child(2) h2').textContent")


def test_an_upload_is_read_by_the_real_server_and_a_mistake_is_told(visit, server, clip):
    page = visit(server.url + "/")
    choose(page, "upload")
    page.click("#start")
    wait(page, "document.querySelector('#message').textContent === 'Choose a file first.'")
    page.set_input_files("#video-file", clip)
    page.evaluate("document.querySelector('[data-part=schedule]').value = 'never'")
    page.click("#start")
    wait(page, "document.querySelector('.notes').textContent.includes('(unsupported)')")
    page.evaluate("document.querySelector('[data-part=schedule]').value = 'wait-k:2'")
    wait(page, "!document.querySelector('#start').disabled")
    page.click("#start")
    words(page, 2)
    assert state(page, "closed") == "finished"
