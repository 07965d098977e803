"""The browser tests' Chromium: where it is, how to get one (`python -m tests.chromium`), what it must not do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync"]
NONE_FOUND = ("No Chromium was found and none could be installed. Install one so that `chromium` or "
              "`google-chrome` is on PATH, then run `make test` again.")


def find() -> str | None:
    """The path of a Chromium that starts: the system's, else Playwright's own."""
    system = (shutil.which(name) for name in NAMES)
    own = (_playwrights_own() for _ in range(1))  # asked only if the system has none: it takes seconds
    return next((path for path in chain(system, own) if path and _starts(path)), None)


def _starts(path: str) -> bool:
    """False for a stub that only asks for a snap, or where a shared library is missing."""
    try:
        shown = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60,
                               stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return shown.returncode == 0 and "Chrom" in shown.stdout


def _playwrights_own() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if os.path.exists(path) else None


def _attempt(*command: str) -> bool:
    print("+", " ".join(command), flush=True)
    try:
        return subprocess.run(command, timeout=1200).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        print(error, flush=True)
        return False


def install() -> str | None:
    """Playwright's own Chromium, else the distribution's package; its path, or None."""
    _attempt(sys.executable, "-m", "playwright", "install", "chromium")
    path = find()
    if path is None and shutil.which("apt-get"):
        root = [] if os.geteuid() == 0 else ["sudo"]
        _attempt(*root, "apt-get", "update", "-qq")
        _attempt(*root, "apt-get", "install", "-y", "-qq", "chromium")
        path = find()
    return path


def watch(page: Any, url: str, problems: list[str]) -> None:
    """Adds a line to `problems` for every error on the page's console or thrown in it, and for every request
    to another host than `url`'s."""
    host = urlsplit(url).netloc

    def asked(request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob", "about") and parts.netloc != host:
            problems.append(f"asked {request.url}")

    page.on("console", lambda message: message.type == "error" and problems.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"thrown: {error}"))
    page.on("request", asked)


if __name__ == "__main__":
    found = find() or install()
    print(f"Chromium: {found}" if found else NONE_FOUND)
    sys.exit(0 if found else 1)
