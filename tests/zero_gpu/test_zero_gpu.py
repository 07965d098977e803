"""The ZeroGPU path, each file in a Python of its own, because `device` must come before torch and gradio."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
INSIDE = sorted(FOLDER.glob("inside_*.py"))


@pytest.mark.parametrize("file", INSIDE, ids=lambda file: file.stem.removeprefix("inside_"))
def test_inside_a_zero_gpu_space(file: Path) -> None:
    run = subprocess.run([sys.executable, "-m", "pytest", "-p", "tests.zero_gpu.device", "-p", "no:cacheprovider",
                          "-x", "-q", "-W", "error::pytest.PytestUnhandledThreadExceptionWarning", str(file)],
                         cwd=FOLDER.parent.parent, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"\d+ passed", run.stdout) and "skipped" not in run.stdout, run.stdout
