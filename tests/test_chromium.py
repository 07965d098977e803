"""The browser is found where it can be, and what a page must not do is noticed."""

from __future__ import annotations

import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from . import chromium

BAD_PAGE = """<!doctype html><link rel="icon" href="data:,"><title>bad</title>
<script>
console.error("oh no")
fetch("http://127.0.0.1:9/elsewhere").catch(() => {})
setTimeout(() => { throw Error("thrown late") })
</script>
"""
GOOD_PAGE = '<!doctype html><link rel="icon" href="data:,"><title>good</title><script>console.warn("fine")</script>'


@pytest.fixture
def site(tmp_path):
    (tmp_path / "bad.html").write_text(BAD_PAGE)
    (tmp_path / "good.html").write_text(GOOD_PAGE)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def problems_of(browser, url):
    problems = []
    page = browser.new_page()
    chromium.watch(page, url, problems)
    page.goto(url)
    page.wait_for_timeout(300)
    page.close()
    return problems


@pytest.mark.browser
def test_errors_and_requests_elsewhere_are_noticed(browser, site):
    problems = problems_of(browser, f"{site}/bad.html")
    for what in ("console: oh no", "asked http://127.0.0.1:9/elsewhere", "thrown: thrown late"):
        assert any(what in problem for problem in problems), problems


@pytest.mark.browser
def test_a_page_that_behaves_has_no_problems(browser, site):
    assert problems_of(browser, f"{site}/good.html") == []


def script(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def no_playwright(monkeypatch):
    monkeypatch.setattr(chromium, "_playwrights_own", lambda: None)


def test_the_systems_chromium_comes_first_and_a_stub_does_not_count(tmp_path, monkeypatch, no_playwright):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert chromium.find() is None
    script(tmp_path, "chromium-browser", "echo this needs a snap; exit 1")
    assert chromium.find() is None
    chrome = script(tmp_path, "google-chrome", "echo Google Chrome 150.0")
    assert chromium.find() == chrome
    system = script(tmp_path, "chromium", "echo Chromium 150.0")
    assert chromium.find() == system


def test_playwrights_own_is_next(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    own = script(tmp_path, "chrome", "echo Chromium 150.0")
    monkeypatch.setattr(chromium, "_playwrights_own", lambda: own)
    assert chromium.find() == own


def test_what_is_missing_is_installed_in_that_order(tmp_path, monkeypatch, no_playwright, capfd):
    """Playwright's own cannot be had, so the distribution's package is installed; here by a stand-in."""
    script(tmp_path, "apt-get", f"""echo "apt-get $*"
        printf '#!/bin/sh\\necho Chromium 150.0\\n' > '{tmp_path}/chromium'
        /bin/chmod +x '{tmp_path}/chromium'""")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", script(tmp_path, "python", 'echo "playwright $*"; exit 1'))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert chromium.install() == str(tmp_path / "chromium")
    said = capfd.readouterr().out
    package = "apt-get install -y -qq --no-install-recommends chromium fonts-liberation"
    assert said.index("-m playwright install chromium") < said.index(package)


def test_where_there_is_no_package_manager_it_says_so(tmp_path, monkeypatch, no_playwright):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", script(tmp_path, "python", "exit 1"))
    assert chromium.install() is None


def test_a_bare_debian_gets_the_library_that_playwright_needs(tmp_path, monkeypatch, capfd):
    script(tmp_path, "python", f"test -e '{tmp_path}/library' && echo Version 1")
    script(tmp_path, "apt-get", f"""echo "apt-get $*"; : > '{tmp_path}/library'""")
    chrome = script(tmp_path, "chromium", "echo Chromium 150.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert chromium.prepare() == chrome
    assert "apt-get install -y -qq --no-install-recommends libatomic1" in capfd.readouterr().out


def test_what_cannot_be_had_is_said_in_a_sentence(tmp_path, monkeypatch, no_playwright):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", script(tmp_path, "python", "exit 1"))
    with pytest.raises(SystemExit, match="libatomic1"):
        chromium.prepare()
    monkeypatch.setattr(sys, "executable", script(tmp_path, "python", '[ "$3" = --version ] && echo Version 1'))
    with pytest.raises(SystemExit, match="No Chromium was found"):
        chromium.prepare()
