"""The Triton kernels without a GPU: their arithmetic in Triton's interpreter, their code through its compiler.

Each runs in a process of its own, since Triton reads how it is to work when it is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
REPOSITORY = Path(__file__).resolve().parent.parent


def run(module: str, *arguments: str, **environment: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=REPOSITORY, capture_output=True, text=True,
                          env=os.environ | environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(900)
def test_interpreted_steps_equal_our_forward_and_draws_obey_the_rule() -> None:
    run("tests.interpreted_step", TRITON_INTERPRET="1")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("capability", ["75", "80", "90"])
def test_every_kernel_compiles(capability: str) -> None:
    run("tests.compiled_kernels", capability, TRITON_INTERPRET="0")
