"""A small driver of real headless Chromium over its DevTools socket: as much as the page's tests need."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
from pathlib import Path

from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_S = 60  # generous: a busy machine is no failure


def find() -> str | None:
    """The browser's program; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One browser process with a profile of its own. `camera` is a .mjpeg or .y4m file that plays as its camera."""

    def __init__(self, profile: Path, camera: Path | None = None):
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--mute-audio",
            "--hide-scrollbars",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            "--use-fake-ui-for-media-stream",
            "--auto-select-desktop-capture-source=Entire screen",
            "--use-fake-device-for-media-stream",
        ]
        flags += [f"--use-file-for-fake-video-capture={camera}"] if camera else []
        self.process = subprocess.Popen([find(), *flags, "about:blank"], stderr=subprocess.DEVNULL)
        port_file = profile / "DevToolsActivePort"
        wait_for(
            lambda: port_file.exists() and port_file.read_text().count("\n"), "the browser to start", self.process
        )
        port, path = port_file.read_text().split()
        self.address = f"ws://127.0.0.1:{port}"
        self.socket = Socket(self.address + path)

    def page(self, url: str, *, width: int = 1280, height: int = 860, dark: bool = False) -> "Page":
        """A new tab at this address, of this size."""
        target = self.socket.call("Target.createTarget", url="about:blank")["targetId"]
        return Page(Socket(f"{self.address}/devtools/page/{target}"), url, width, height, dark)

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Socket:
    """DevTools calls and events of one target."""

    def __init__(self, url: str):
        self.stack = contextlib.ExitStack()
        self.web = self.stack.enter_context(connect(url, max_size=None, proxy=None))
        self.ids = itertools.count()
        self.events: list[dict] = []

    def call(self, method: str, **params) -> dict:
        wanted = next(self.ids)
        self.web.send(json.dumps({"id": wanted, "method": method, "params": params}))
        while True:
            message = json.loads(self.web.recv(timeout=PATIENCE_S))
            if message.get("id") == wanted:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self.events.append(message)

    def close(self) -> None:
        self.stack.close()


class Page:
    """A tab: evaluate, wait, press keys, look."""

    def __init__(self, socket: Socket, url: str, width: int, height: int, dark: bool):
        self.socket = socket
        self.call = socket.call
        for domain in ("Page", "Runtime", "Log", "Network", "DOM", "Accessibility"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.prefer(dark=dark)
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, *, dark: bool = False, still: bool = False) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        motion = {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"}
        self.call("Emulation.setEmulatedMedia", features=[scheme, motion])

    def js(self, expression: str):
        """The value of an expression; promises are awaited."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"].get("description", expression))
        return result["result"].get("value")

    def wait(self, expression: str):
        """Wait until an expression holds; its value."""
        return wait_for(lambda: self.js(expression), expression, problems=self.problems)

    def click(self, selector: str) -> None:
        self.js(f"document.querySelector({json.dumps(selector)}).click()")

    def set_files(self, selector: str, *paths: Path) -> None:
        """Choose files in an input, as a person would."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def press(self, key: str, *, shift: bool = False) -> None:
        """One key, down and up: a letter, or a name such as Tab, Enter, ArrowRight."""
        codes = {
            "Tab": 9,
            "Enter": 13,
            "Escape": 27,
            " ": 32,
            "End": 35,
            "Home": 36,
            "ArrowLeft": 37,
            "ArrowRight": 39,
        }
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        code = codes.get(key, ord(key.upper()) if len(key) == 1 else 0)
        event = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def write(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def hover(self, selector: str) -> None:
        box = self.box(selector)
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def box(self, selector: str) -> dict:
        """Where an element lies in the window, in pixels."""
        return self.js(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()")

    def picture(self, selector: str | None = None) -> bytes:
        """A screenshot as PNG: of the whole page, or of where an element lies."""
        how = {"captureBeyondViewport": True}
        if selector:
            box = self.box(selector)
            corner = {"x": box["x"] + self.js("scrollX"), "y": box["y"] + self.js("scrollY")}
            how["clip"] = corner | {"width": box["width"], "height": box["height"], "scale": 1}
        return base64.b64decode(self.call("Page.captureScreenshot", **how)["data"])

    def problems(self) -> list[str]:
        """Errors that the console has shown and exceptions that nobody caught, so far."""
        self.call("Runtime.evaluate", expression="0")  # what came before is here now
        found = []
        for event in self.socket.events:
            kind, params = event.get("method"), event.get("params", {})
            if kind == "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                found.append(details.get("exception", {}).get("description", details["text"]))
            elif kind == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
                found.append(str(params["args"]))
            elif kind == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        return found

    def addresses(self) -> list[str]:
        """Every address that the page has asked for, sockets included."""
        self.call("Runtime.evaluate", expression="0")
        asked = [event["params"] for event in self.socket.events if event.get("method") == "Network.requestWillBeSent"]
        sockets = [
            event["params"] for event in self.socket.events if event.get("method") == "Network.webSocketCreated"
        ]
        return [params["request"]["url"] for params in asked] + [params["url"] for params in sockets]

    def close(self) -> None:
        self.call("Page.close")
        self.socket.close()


def wait_for(condition, what: str, process: subprocess.Popen | None = None, problems=None):
    """Poll until `condition()` is true; its value."""
    end = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert process is None or process.poll() is None, f"the program ended while waiting for {what}"
        assert time.monotonic() < end, f"waited {PATIENCE_S} s for {what}; {problems() if problems else ''}"
        time.sleep(0.05)
    return value
