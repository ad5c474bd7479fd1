"""Headless Chromium driven over a pipe, with nothing but the standard library.

Chromium reads commands of the DevTools protocol from file descriptor 3 and answers on 4; a message
is JSON with a zero byte behind it. https://chromedevtools.github.io/devtools-protocol
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-pipe",
)  # fmt: skip


def find():
    """Path of Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


class Page:
    """One page in a browser of its own.

    Attributes:
        problems: Errors and warnings of the console, exceptions, and requests that failed.
        requests: Addresses that were asked for.
    """

    def __init__(self, width=1280, height=900, dark=False, phone=False):
        self.problems, self.requests, self.buffer, self.count = [], [], b"", 0
        self.profile = tempfile.mkdtemp()
        command_in, self.commands = os.pipe()
        self.answers, answer_out = os.pipe()
        # the shell gives the two pipes the numbers that Chromium expects
        start = f'exec "$0" "$@" 3<&{command_in} 4>&{answer_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", start, find(), *FLAGS, f"--user-data-dir={self.profile}"],
            pass_fds=(command_in, answer_out), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(command_in)
        os.close(answer_out)
        self.session = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        scale = 2 if phone else 1
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=phone,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.close(self.commands)  # Chromium ends when its pipe does
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.answers)
        shutil.rmtree(self.profile, ignore_errors=True)

    def send(self, method, limit=60, **params):
        """Result of a command."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + limit
        while True:
            answer = self._next(end)
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _next(self, end):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.answers], [], [], max(0, end - time.monotonic()))
            part = os.read(self.answers, 1 << 20) if ready else b""
            if not part:
                raise TimeoutError("Chromium does not answer")
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event):
        told = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(told["exceptionDetails"].get("exception", told))
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.problems.append([part.get("value", part) for part in told["args"]])
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self.problems.append(told["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])
            case "Network.loadingFailed" if not told.get("canceled"):
                self.problems.append(told["errorText"])

    def open(self, address):
        self.send("Page.navigate", url=address)

    def run(self, script, limit=60):
        """Value of a JavaScript expression; promises are waited for."""
        answer = self.send(
            "Runtime.evaluate", limit,
            expression=script, awaitPromise=True, returnByValue=True, userGesture=True,
        )  # fmt: skip
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, condition, limit=30):
        """Waits until a JavaScript expression is true."""
        end = time.monotonic() + limit
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} did not come true; {self.problems}")
            time.sleep(0.05)

    def press(self, key, code):
        """A key that names itself, such as ArrowUp, with its Windows key code."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key,
                windowsVirtualKeyCode=code, **text,
            )  # fmt: skip

    def click(self, x, y):
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, file, whole=True):
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(shot["data"]))
