"""A headless Chromium, driven through its DevTools protocol over a pair of pipes."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

# A page opens in about a second. A browser that hangs fails instead.
GUARD_S = 60


class Browser:
    """Use as a context manager. Messages end with a zero byte, in both directions."""

    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        to_browser, self.out = os.pipe()
        self.inp, from_browser = os.pipe()
        # Chromium reads from descriptor 3 and writes to 4.
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu",
                   "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
                   "--disable-background-networking", "--disable-component-update",
                   "--user-data-dir=" + self.profile, "--remote-debugging-pipe", "about:blank"]
        shell = ["sh", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "sh"]
        self.process = subprocess.Popen(shell + command, pass_fds=(to_browser, from_browser),
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self.buffer = b""
        self.last_id = 0
        self.events = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.out)
        os.close(self.inp)
        shutil.rmtree(self.profile, ignore_errors=True)

    def receive(self):
        """The next message."""
        end = time.monotonic() + GUARD_S
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.inp], [], [], max(0, end - time.monotonic()))
            part = os.read(self.inp, 1 << 16) if ready else b""
            if not part:
                raise SystemExit("the browser does not respond")
            self.buffer += part
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, session=None, **params):
        """Calls a method and returns its result. Events that come before it are kept."""
        self.last_id += 1
        message = {"id": self.last_id, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            received = self.receive()
            if received.get("id") == self.last_id:
                if "error" in received:
                    raise SystemExit(f"{method}: {received['error']}")
                return received["result"]
            if "method" in received:
                self.events.append(received)

    def page(self):
        """A new page, with its console, its network and its errors observed."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ["Page", "Runtime", "Log", "Network"]:
            page.call(domain + ".enable")
        return page


class Page:
    def __init__(self, browser, session):
        self.browser = browser
        self.session = session

    def call(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def take_events(self, method):
        """The parameters of all events of this name so far, each once."""
        mine = [event for event in self.browser.events
                if event["method"] == method and event.get("sessionId") == self.session]
        self.browser.events = [event for event in self.browser.events if event not in mine]
        return [event["params"] for event in mine]

    def open(self, path):
        """Opens a file, and returns the seconds until it is loaded and its script has run."""
        return self.visit("file://" + os.path.abspath(path))

    def visit(self, url):
        """Opens a URL, and returns the seconds until it is loaded and its script has run."""
        begin = time.monotonic()
        self.call("Page.navigate", url=url)
        while not self.take_events("Page.loadEventFired"):
            if time.monotonic() - begin > GUARD_S:
                raise SystemExit(f"{url} is not loaded")
            self.evaluate("0")
        return time.monotonic() - begin

    def evaluate(self, expression):
        """The value of an expression of JavaScript."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                           awaitPromise=True)
        if "exceptionDetails" in result:
            raise SystemExit(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def show_as(self, width, height=800, scheme="light", mobile=False):
        """Sets the size of the window and the preferred colours."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=mobile)
        self.call("Emulation.setEmulatedMedia", media="",
                  features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path, height=None):
        """Writes a picture of the whole page, or of its upper part."""
        # Two frames, so that what was changed before is drawn.
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        clip = {}
        if height:
            width = self.evaluate("innerWidth")
            clip["clip"] = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True,
                            **clip)
        with open(path, "wb") as file:
            file.write(base64.b64decode(picture["data"]))
