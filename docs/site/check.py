#!/usr/bin/env python
"""Look at the site as a reader does, without a network.

    python docs/site/check.py            # what `make site` runs after building build/site/html

Of every page: each link leads to a page and a place of the site, nothing is loaded from elsewhere.
Then, where Chromium is installed: no request leaves, nothing is written to the console, formulas
are set, the page is not wider than the screen at 1280 and 400 pixels, and the search finds.
"""

import argparse
import functools
import html.parser
import itertools
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

WIDTHS = (1280, 400)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# What a page tells of itself: its width beyond the screen, and formulas that are not set.
ASK = """(async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  return {wide: document.documentElement.scrollWidth - window.innerWidth,
    unset: [...document.querySelectorAll('.math')].filter(
      e => !e.querySelector('mjx-container') || e.querySelector('mjx-merror')).length};
})()"""
FOUND = "document.querySelectorAll('#search-results li').length"


class _Page(html.parser.HTMLParser):
    "The ids, links and loaded files of a page."

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        "Note what a tag names, leads to and loads."
        attributes = dict(attributes)
        self.ids.add(attributes.get("id"))
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        source = attributes.get("src") or (attributes.get("href") if tag == "link" else None)
        if source:
            self.loaded.append(source)


def broken_links(site: Path) -> list[str]:
    "List links that lead nowhere, and files that are missing or would come from a network."
    page_at = functools.cache(_Page)
    problems = []
    for path in sorted(site.rglob("*.html")):
        page = page_at(path)
        where = path.relative_to(site)
        for link in page.loaded + page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme == "data" or (parts.scheme and link in page.links):
                continue
            if parts.scheme or parts.netloc:
                problems.append(f"{where} loads {link}")
                continue
            target = path if not parts.path else (path.parent / urllib.parse.unquote(parts.path))
            target = target.resolve()
            if not target.exists():
                problems.append(f"{where}: {link} is not there")
            elif parts.fragment and target.suffix == ".html":
                if urllib.parse.unquote(parts.fragment) not in page_at(target).ids:
                    problems.append(f"{where}: {link} has no such place")
    return problems


def find_browser() -> str | None:
    "The path of Chromium, if it is installed."
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Browser:
    "A headless Chromium that resolves no names, driven through its debugging protocol."

    def __init__(self, program: str):
        import websocket

        self.folder = tempfile.TemporaryDirectory()
        flags = "--headless --no-sandbox --disable-gpu --remote-debugging-port=0 --no-first-run"
        resolve = "--host-resolver-rules=MAP * ~NOTFOUND"
        command = [program, *flags.split(), resolve, f"--user-data-dir={self.folder.name}"]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        port, path = self._port()
        self.numbers, self.events = itertools.count(1), []
        self.socket = websocket.create_connection(
            f"ws://127.0.0.1:{port}{path}", timeout=60, suppress_origin=True
        )
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def _port(self) -> tuple[str, str]:
        "Wait for the port that the browser listens on."
        file = Path(self.folder.name) / "DevToolsActivePort"
        for _ in range(600):
            if file.exists() and len(lines := file.read_text().splitlines()) == 2:
                return lines[0], lines[1]
            time.sleep(0.1)
        raise TimeoutError("the browser did not start within 60 s")

    def call(self, method: str, **parameters) -> dict:
        "Call a method of the protocol; what happens meanwhile is kept in `events`."
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def open(self, url: str):
        "Go to a page and wait until it is loaded."
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def ask(self, expression: str):
        "Evaluate an expression in the page."
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["text"])
        return answer["result"].get("value")

    def resize(self, width: int, height: int = 900):
        "Look at the page on a screen of this size."
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def complaints(self) -> Iterator[str]:
        "What left the page or was written to the console since it was opened."
        for event in self.events:
            method, told = event.get("method"), event.get("params", {})
            if method == "Network.requestWillBeSent":
                url = told["request"]["url"]
                if not re.match(r"(?:file|data|blob|about):", url):
                    yield f"asks for {url}"
            elif method == "Runtime.exceptionThrown":
                yield f"raises {told['exceptionDetails'].get('text')}"
            elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
                yield f"logs {told['entry']['text']} {told['entry'].get('url', '')}"
            elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
                yield f"logs {[a.get('value') for a in told['args']]}"

    def close(self):
        "End the browser."
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)
        self.folder.cleanup()


def seen_problems(site: Path, browser: Browser, word: str | None = "whitening") -> list[str]:
    "Open every page at every width, and search for a word, if the pages have a search."
    problems = []
    for path in sorted(site.rglob("*.html")):
        browser.open(path.as_uri())
        where = path.relative_to(site)
        for width in WIDTHS:
            browser.resize(width)
            state = browser.ask(ASK)
            if state["wide"] > 0:
                problems.append(f"{where} is {state['wide']} pixels wider than {width}")
            if state["unset"]:
                problems.append(f"{where}: {state['unset']} formulas are not set")
        problems += [f"{where} {complaint}" for complaint in browser.complaints()]
    if word is None:
        return problems
    browser.open(f"{(site / 'search.html').as_uri()}?q={word}")
    for _ in range(50):
        if browser.ask(FOUND):
            return problems
        time.sleep(0.1)
    return [*problems, f"the search does not find {word}"]


def main() -> int:
    "Check a site; the exit status is 1 if something is wrong."
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    built = Path(__file__).resolve().parents[2] / "build" / "site" / "html"
    parser.add_argument("site", nargs="?", type=Path, default=built, help="folder of the pages")
    site = parser.parse_args().site.resolve()
    problems, program = broken_links(site), find_browser()
    if program:
        browser = Browser(program)
        try:
            problems += seen_problems(site, browser)
        finally:
            browser.close()
    else:
        print(f"not looked at in a browser: none of {', '.join(BROWSERS)} is installed")
    pages = len(list(site.rglob("*.html")))
    print("\n".join(problems[:50]) or f"{pages} pages, nothing wrong", file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
