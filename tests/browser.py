"""A real browser without a window, driven by its own debugging protocol: what a page shows, as text."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

# What is on the page, also within the parts that bokeh closes off in shadow roots.
TEXT = """(() => {
  const seen = [];
  const walk = node => {
    if (node.nodeType === Node.TEXT_NODE) { if (node.textContent.trim()) seen.push(node.textContent.trim()); return; }
    if (["STYLE", "SCRIPT"].includes(node.tagName)) return;
    if (node.shadowRoot) walk(node.shadowRoot);
    node.childNodes.forEach(walk);
  };
  walk(document.body);
  return seen.join("\\n");
})()"""


def browser() -> str | None:
    """The browser's program, None where there is none."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))),
        None,
    )


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Page:
    """An open page."""

    def __init__(self, address: str):
        self.address = address

    def run(self, script: str):
        """The value of a JavaScript expression on the page."""
        return asyncio.run(self._call("Runtime.evaluate", expression=script, returnByValue=True))[
            "result"
        ].get("value")

    def text(self) -> str:
        return self.run(TEXT) or ""

    def wait_for(self, *words: str, seconds: float = 120) -> str:
        """The page's text once it has all words, or as it is after so many seconds."""
        end = time.monotonic() + seconds
        while not all(word in (text := self.text()) for word in words) and time.monotonic() < end:
            time.sleep(0.5)
        return text

    def click(self, words: str) -> bool:
        """Click the button with these words on it; whether there is one."""
        return self.run(
            """(() => {
              const find = node => {
                if (node.tagName === "BUTTON" && node.textContent.trim() === WORDS) return node;
                for (const child of [...(node.shadowRoot ? [node.shadowRoot] : []), ...node.childNodes]) {
                  const found = find(child); if (found) return found;
                }
                return null;
              };
              const button = find(document.body);
              if (button) button.click();
              return button !== null;
            })()""".replace("WORDS", json.dumps(words))
        )

    def resize(self, width: int, height: int) -> None:
        """Give the window a size, which it keeps."""
        window = asyncio.run(self._call("Browser.getWindowForTarget"))["windowId"]
        bounds = {"width": width, "height": height}
        asyncio.run(self._call("Browser.setWindowBounds", windowId=window, bounds=bounds))

    def screenshot(self, path: Path) -> None:
        import base64

        path.write_bytes(base64.b64decode(asyncio.run(self._call("Page.captureScreenshot"))["data"]))

    def visit(self, url: str) -> list[str]:
        """Go to a page: what it complained of and whom it asked for anything but itself while it loaded."""
        return asyncio.run(self._visit(url))

    async def _visit(self, url: str) -> list[str]:
        from tornado.websocket import websocket_connect

        connection = await websocket_connect(self.address, max_message_size=2**28)

        async def send(number: int, method: str, **parameters) -> None:
            await connection.write_message(json.dumps({"id": number, "method": method, "params": parameters}))

        for number, domain in enumerate(("Runtime", "Log", "Network", "Page")):
            await send(number, f"{domain}.enable")
        # The browser's own first page, still on its way, can take the place of ours: then once more.
        for _ in range(6):
            await send(10, "Page.navigate", url=url)
            complaints, ours = [], False
            while True:
                try:
                    event = json.loads(await asyncio.wait_for(connection.read_message(), 20))
                except asyncio.TimeoutError:
                    break
                told, method = event.get("params", {}), event.get("method")
                if method == "Page.frameNavigated" and unquote(told["frame"]["url"]) == unquote(url):
                    ours = True
                elif method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
                    complaints.append(json.dumps(told))
                elif method == "Log.entryAdded":
                    complaints.append(f"{told['entry']['level']}: {told['entry']['text']}")
                elif method == "Network.requestWillBeSent":
                    asked = told["request"]["url"]
                    if unquote(asked) != unquote(url) and not asked.startswith("data:"):
                        complaints.append(f"asked for {asked}")
                elif method == "Page.loadEventFired" and ours:
                    # What a page does once it is loaded it does at once.
                    await asyncio.sleep(1)
                    await send(99, "Runtime.enable")
                elif event.get("id") == 99:
                    connection.close()
                    return complaints
        raise RuntimeError(f"the browser did not load {url}")

    async def _call(self, method: str, **parameters) -> dict:
        from tornado.websocket import websocket_connect

        connection = await websocket_connect(self.address, max_message_size=2**28)
        await connection.write_message(json.dumps({"id": 1, "method": method, "params": parameters}))
        while True:
            answer = json.loads(await connection.read_message())
            if answer.get("id") == 1:
                connection.close()
                return answer["result"]


@contextmanager
def opened(url: str, folder: Path) -> Iterator[Page]:
    """The page at url in a new browser with folder as its profile; it reaches this machine only."""
    port = free_port()
    process = subprocess.Popen(
        [
            browser(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1600,1000",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
            f"--user-data-dir={folder}",
            f"--remote-debugging-port={port}",
            "--remote-allow-origins=*",
            url,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=5) as answer:
                    pages = [page for page in json.load(answer) if page["type"] == "page"]
                if pages:
                    break
            except OSError:
                pass
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError("the browser did not start")
            time.sleep(0.2)
        yield Page(pages[0]["webSocketDebuggerUrl"])
    finally:
        process.terminate()
        process.wait(20)


def check_page(path: Path, folder: Path, n_images: int | None = None) -> str:
    """Assert that a page of ours opens from its file without a complaint or a request and fits the window, at a
    desktop's width and a laptop's, with all of its pictures and so many of them; returns its text.

    folder: where the browser writes.
    """
    folder.mkdir(exist_ok=True)
    with opened("about:blank", Path(tempfile.mkdtemp(dir=folder))) as shown:
        for width, height in ((1920, 1080), (1280, 720)):
            shown.resize(width, height)
            assert shown.visit(path.resolve().as_uri()) == []
            widths = shown.run("[...document.images].map(image => image.complete ? image.naturalWidth : 0)")
            assert all(widths) and n_images in (None, len(widths)), widths
            assert shown.run("document.documentElement.scrollWidth <= innerWidth"), f"wider than {width}"
        return shown.text()
