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
NO_DRIVER = ("Playwright cannot start here; on Debian or Ubuntu: sudo apt-get install libatomic1. "
             "Then run `make test` again.")


def find() -> str | None:
    """The path of a Chromium that starts: the system's, else Playwright's own."""
    system = (shutil.which(name) for name in NAMES)
    own = (_playwrights_own() for _ in range(1))  # asked only if the system has none: it takes seconds
    return next((path for path in chain(system, own) if path and _starts(path)), None)


def _starts(path: str) -> bool:
    """False for a stub that only asks for a snap, or where a shared library is missing."""
    return "Chrom" in (_runs([path, "--version"]) or "")


def _runs(command: list[str]) -> str | None:
    """What the command prints, or None if it fails."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout if run.returncode == 0 else None


def driver_starts() -> bool:
    """Whether Playwright itself can run: its Node needs libatomic, which a bare Debian lacks."""
    return _runs([sys.executable, "-m", "playwright", "--version"]) is not None


def _playwrights_own() -> str | None:
    if not driver_starts():
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if os.path.exists(path) else None


def _attempt(*command: str) -> None:
    print("+", " ".join(command), flush=True)
    try:
        subprocess.run(command, timeout=1200, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    except (OSError, subprocess.TimeoutExpired) as error:
        print(error, flush=True)


def _install_packages(*names: str) -> None:
    """The distribution's packages, where there is apt-get."""
    if shutil.which("apt-get"):
        root = [] if os.geteuid() == 0 else ["sudo", "DEBIAN_FRONTEND=noninteractive"]
        _attempt(*root, "apt-get", "update", "-qq")
        _attempt(*root, "apt-get", "install", "-y", "-qq", "--no-install-recommends", *names)


def install() -> str | None:
    """Playwright's own Chromium, else the distribution's package; its path, or None."""
    _attempt(sys.executable, "-m", "playwright", "install", "chromium")
    path = find()
    if path is None:
        _install_packages("chromium", "fonts-liberation")
        path = find()
    return path


def prepare() -> str:
    """Whatever it takes to drive a Chromium; its path. SystemExit with what to do if that fails."""
    if not driver_starts():
        _install_packages("libatomic1")
    if not driver_starts():
        sys.exit(NO_DRIVER)
    return find() or install() or sys.exit(NONE_FOUND)


def watch(page: Any, url: str, problems: list[str]) -> None:
    """Adds a line to `problems` for every error on the page's console or thrown in it, and for every request
    to another host than `url`'s."""
    host = urlsplit(url).netloc

    def said(message: Any) -> None:
        if message.type == "error":
            problems.append(f"console: {message.text}")

    def asked(request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob", "about") and parts.netloc != host:
            problems.append(f"asked {request.url}")

    page.on("console", said)
    page.on("pageerror", lambda error: problems.append(f"thrown: {error}"))
    page.on("request", asked)


if __name__ == "__main__":
    print(f"Chromium: {prepare()}")
