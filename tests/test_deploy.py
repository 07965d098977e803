"""`deploy`: what is sent, and what is said of every answer of the Hub. No test reaches the Hub."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from olmoe_space.shell import deploy
from olmoe_space.shell.deploy import LARGEST, PARTS, ROOT, files

from .test_space_files import FRONT_MATTER

SPACE = "me/olmoe"


def refusal(status: int, said: str) -> HfHubHTTPError:
    request = httpx2.Request("POST", "https://huggingface.co/api")
    return HfHubHTTPError(said, response=httpx2.Response(status, request=request), server_message=said)


class Hub:
    """The Hub as far as `deploy` talks to it. Each call must be one that the real client takes."""

    def __init__(self, *stages: Any, there: tuple[str, ...] = (), refuses: dict[str, Exception] | None = None,
                 raw: dict[str, Any] | None = None) -> None:
        self.stages, self.there, self.refuses, self.raw = list(stages or ["RUNNING"]), there, refuses or {}, raw or {}
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            bound = inspect.signature(getattr(HfApi, name)).bind(None, *args, **kwargs)
            self.calls.append((name, bound.arguments))
            if name in self.refuses:
                raise self.refuses[name]
            return self.answer(name)

        return call

    def answer(self, name: str) -> Any:
        if name == "get_space_runtime":
            stage = self.stages.pop(0) if len(self.stages) > 1 else self.stages[0]
            if isinstance(stage, Exception):
                raise stage
            return SimpleNamespace(stage=stage, raw=self.raw)
        answers = {"whoami": {"name": "me"}, "repo_exists": bool(self.there), "list_repo_files": list(self.there)}
        return answers.get(name)

    def called(self, name: str) -> list[dict[str, Any]]:
        return [arguments for called, arguments in self.calls if called == name]


NAMES = ["app.py", "README.md"]


def deployed(hub: Hub, hardware: str | None = None) -> int:
    return deploy.deploy(hub, SPACE, NAMES, hardware, False, sleep=lambda _: None)


def test_a_new_space_is_made_filled_and_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    hub = Hub("NO_APP_FILE", "BUILDING", "BUILDING", httpx2.ConnectError("a blip"), "APP_STARTING", "RUNNING")
    assert deployed(hub) == 0
    told = capsys.readouterr()
    assert told.out == f"https://huggingface.co/spaces/{SPACE}\n"
    assert [told.err.count(said) for said in ("building", "app starting", "running", "no answer")] == [1, 1, 1, 1]
    [made] = hub.called("create_repo")
    assert (made["repo_type"], made["space_sdk"], made["space_hardware"]) == ("space", "gradio", "zero-a10g")
    [sent] = hub.called("create_commit")
    assert [operation.path_in_repo for operation in sent["operations"]] == NAMES
    assert not hub.called("request_space_hardware")


def test_an_update_leaves_no_old_files_and_the_hardware_as_it_is() -> None:
    hub = Hub("RUNNING", "RUNNING_BUILDING", "RUNNING",
              there=(".gitattributes", "app.py", "olmoe_space/old.py", "README.md"))
    assert deployed(hub) == 0
    assert len(hub.called("get_space_runtime")) == 3  # the first "running" was the version before
    assert not hub.called("create_repo") and not hub.called("request_space_hardware")
    kinds = [(type(o).__name__, o.path_in_repo) for o in hub.called("create_commit")[0]["operations"]]
    assert kinds == [("CommitOperationDelete", "olmoe_space/old.py"), *(("CommitOperationAdd", name) for name in NAMES)]
    assert deployed(hub, "l4x1") == 0
    assert hub.called("request_space_hardware")[0]["hardware"] == "l4x1"


def test_another_app_is_not_written_over() -> None:
    hub = Hub(there=("app.py", "mine.txt"))
    with pytest.raises(ValueError, match="holds another app"):
        deployed(hub)
    assert not hub.called("create_commit")


@pytest.mark.parametrize(("refuses", "said"), [
    ({"whoami": LocalTokenNotFoundError()}, "no token on this machine"),
    ({"whoami": refusal(401, "Invalid credentials")}, "refuses the token"),
    ({"whoami": httpx2.ConnectError("no route")}, "cannot be reached"),
    ({"create_repo": refusal(403, "No rights")}, "No rights. The token must be allowed to write there"),
    ({"create_repo": refusal(402, "Payment required")}, "two on ZeroGPU"),
    ({"create_commit": refusal(500, "Oh no")}, "The Hub refused me/olmoe: Oh no"),
    ({"create_commit": TimeoutError("slow")}, "cannot be reached"),
])
def test_a_refusal_is_a_sentence_with_a_remedy(refuses: dict[str, Exception], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        deployed(Hub(refuses=refuses))


def test_a_space_that_cannot_run_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert deployed(Hub("BUILDING", "BUILD_ERROR", raw={"errorMessage": "no such wheel"})) == 1
    assert "no such wheel" in capsys.readouterr().err


def test_one_that_never_starts_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert deployed(Hub("BUILDING")) == 1
    assert "has not started within 60 minutes" in capsys.readouterr().err
    assert FRONT_MATTER["startup_duration_timeout"] == "1h"


def test_a_dry_run_lists_and_sends_nothing() -> None:
    told = subprocess.run([sys.executable, "-m", "olmoe_space", "deploy", SPACE, "--dry-run"], cwd=ROOT, text=True,
                          capture_output=True, check=True, env=os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert "app.py" in told.stdout and "dry run" in told.stdout and "tests/" not in told.stdout


@pytest.mark.parametrize(("arguments", "said"), [(["olmoe"], "ME/NAME"), ([SPACE, "--hardware", "moon"], "cpu-basic")])
def test_what_cannot_be_meant_is_said(arguments: list[str], said: str) -> None:
    told = subprocess.run([sys.executable, "-m", "olmoe_space", "deploy", *arguments], cwd=ROOT, text=True,
                          capture_output=True, env=os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert told.returncode == 2 and said in told.stderr and "Traceback" not in told.stderr


def test_what_is_sent_is_enough_for_the_app(tmp_path: Path) -> None:
    names = files(ROOT)
    assert {path.parts[0] for path in map(Path, names)} == set(PARTS)
    assert not [name for name in names if "__pycache__" in name]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OLMOE_", "PYTHONPATH"))}
    told = subprocess.run([sys.executable, "-c", "import app; print(app.info.name)"], cwd=tmp_path, text=True,
                          capture_output=True, env=env)
    assert told.stdout.strip().endswith("olmoe-tiny"), told.stderr


def test_a_file_that_the_hub_would_refuse_is_named(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    with (tmp_path / "assets" / "big.bin").open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(ValueError, match=r"assets/big\.bin has"):
        files(tmp_path)


def test_the_builders_own_install_line_resolves() -> None:
    """The builder adds extras of gradio that cap other packages. What is installed here is not fetched again."""
    line = ["-r", "requirements.txt", f"gradio[oauth,mcp]=={FRONT_MATTER['sdk_version']}", "uvicorn>=0.14.0",
            "websockets>=10.4", "spaces"]
    told = subprocess.run([sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-input",
                           "--disable-pip-version-check", *line], cwd=ROOT, text=True, capture_output=True)
    if "connection" in told.stderr.lower() and told.returncode:
        pytest.skip("no package index can be reached from here")
    assert told.returncode == 0, told.stderr
