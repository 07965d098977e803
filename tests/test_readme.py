"""README's examples, run as they stand there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def block(heading: str, language: str) -> str:
    """The first fenced block of a language under a heading."""
    return README.split(f"## {heading}\n")[1].split(f"```{language}\n")[1].split("```")[0]


def test_the_program(server):
    source = block("From a program", "python")
    assert source.count("http://127.0.0.1:7860") == 1
    run = subprocess.run([sys.executable, "-c", source.replace("http://127.0.0.1:7860", server.url)],
                         capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
    assert re.search(r" 16 (stop|length)$", run.stdout, flags=re.MULTILINE), run.stdout


def test_the_library():
    source = README.split("Without a server, from this folder:")[1].split("```python\n")[1].split("```")[0]
    run = subprocess.run([sys.executable, "-c", source], cwd=REPOSITORY, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1].endswith(", 16, 64])") or run.stdout.splitlines()[-1].endswith(", 16, 64)")


def test_what_generate_returns_is_what_readme_names(server):
    from gradio_client import Client
    named = set(re.findall(r"`(\w+)`", README.split("Its last object holds")[1].split(", among others")[0]))
    answer = Client(server.url, verbose=False).predict(message="Hello", seed=0, max_new_tokens=4, api_name="/generate")
    assert len(named) >= 9 and named <= set(answer)


SHELL = [line for line in block("From a shell", "sh").splitlines() if "benchmark" not in line]  # that takes minutes


@pytest.mark.parametrize("command", SHELL)
def test_the_shell(command, olmoe_tiny_folder):
    python, *arguments = shlex.split(command)
    assert python == ".venv/bin/python"
    run = subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1])
