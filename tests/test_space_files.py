"""What a Space's builder and a reader of README.md rely on."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
FRONT_MATTER = yaml.safe_load(README.split("---\n")[1])
KEYS = {"title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file",
        "suggested_hardware", "short_description", "startup_duration_timeout", "models", "preload_from_hub",
        "license", "tags", "pinned", "thumbnail"}
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
TOP_LEVEL = {"app.py", "olmoe_space", "tests", "requirements.txt", "README.md", "assets", ".ci", ".gitignore",
             "LICENSE", "CHANGELOG.md", "Makefile", "pyproject.toml"}
LARGEST = 10_000_000  # a Space's plain push refuses files over 10 MiB


def tracked() -> list[Path]:
    """Files under version control; everything but what is ignored in a copy without git."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode == 0:
        return [Path(name) for name in listed.stdout.split("\0") if name and (REPOSITORY / name).exists()]
    found = [path for name in TOP_LEVEL for path in [REPOSITORY / name, *(REPOSITORY / name).rglob("*")]]
    return [path.relative_to(REPOSITORY) for path in found if path.is_file() and "__pycache__" not in path.parts]


def pins(name: str) -> dict[str, str]:
    """Requirement -> version, "" where any will do."""
    lines = [line.split("#")[0].strip() for line in (REPOSITORY / name).read_text().splitlines()]
    return {package: version for package, _, version in (line.partition("==") for line in lines if line)}


def test_the_front_matter_has_every_key_and_no_other():
    assert README.startswith("---\n") and set(FRONT_MATTER) == KEYS


def test_the_front_matter_says_what_the_builder_accepts():
    assert FRONT_MATTER["sdk"] == "gradio" and FRONT_MATTER["app_file"] == "app.py"
    assert FRONT_MATTER["python_version"] == "3.12.12"
    assert {FRONT_MATTER["colorFrom"], FRONT_MATTER["colorTo"]} <= COLOURS
    assert FRONT_MATTER["suggested_hardware"] == "zero-a10g"
    assert re.fullmatch(r"\d+[mh]", FRONT_MATTER["startup_duration_timeout"])
    assert FRONT_MATTER["license"] == "apache-2.0" and type(FRONT_MATTER["pinned"]) is bool
    assert FRONT_MATTER["thumbnail"].startswith("https://")
    assert all(type(tag) is str for tag in FRONT_MATTER["tags"])
    assert len(FRONT_MATTER["emoji"]) == 1 and unicodedata.category(FRONT_MATTER["emoji"]) == "So"


def test_the_short_description_fits():
    assert 0 < len(FRONT_MATTER["short_description"]) <= 60


def test_gradio_is_the_sdks():
    assert pins("requirements.txt")["gradio"] == FRONT_MATTER["sdk_version"]


def test_the_models_named_are_those_the_app_loads():
    from olmoe_space.settings import HUB_MODEL
    assert FRONT_MATTER["models"] == [HUB_MODEL]
    for entry in FRONT_MATTER["preload_from_hub"]:
        model, _, files = entry.partition(" ")
        assert model == HUB_MODEL
        assert files and "safetensors" not in files  # a duplicate on a CPU would carry weights that it never reads


def test_every_requirement_is_pinned_but_spaces():
    for name in ("requirements.txt", "tests/requirements.txt"):
        for package, version in pins(name).items():
            assert (version == "") == (package == "spaces"), f"{name}: {package}"
    assert pins("requirements.txt")["torch"] == "2.13.0"  # among those that ZeroGPU supports


def imported(folder: Path) -> set[str]:
    """Top-level names of everything imported by the Python files under a folder, or by one file."""
    files = [folder] if folder.is_file() else folder.rglob("*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    taken = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in plain | taken} - sys.stdlib_module_names


def test_what_the_app_imports_is_required_by_name():
    app = imported(REPOSITORY / "app.py")
    for part in (REPOSITORY / "olmoe_space").iterdir():
        if part.name != "training":
            app |= imported(part) if part.is_dir() or part.suffix == ".py" else set()
    # by numba, by torch on GPUs, and by gradio
    brought = {"llvmlite", "triton", "starlette", "huggingface_hub", "fastapi", "httpx"}
    assert app - {"olmoe_space"} - brought <= set(pins("requirements.txt"))


def test_nothing_else_lies_at_the_top():
    assert {path.parts[0] for path in tracked()} <= TOP_LEVEL


def test_no_file_is_too_large_for_a_plain_push():
    assert not [str(path) for path in tracked() if (REPOSITORY / path).stat().st_size > LARGEST]


def test_the_scripts_can_be_run():
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)


def environment_variables() -> set[str]:
    """The names that settings.py asks the environment for."""
    tree = ast.parse((REPOSITORY / "olmoe_space" / "settings.py").read_text(encoding="utf-8"))
    return {node.args[0].value for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get"
            and isinstance(node.args[0], ast.Constant)}


def test_the_settings_table_is_what_settings_read():
    from olmoe_space.settings import BACKENDS, DTYPES, WEIGHTS, Settings
    table = re.findall(r"^\| `([A-Z_]+)` \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", README, flags=re.MULTILINE)
    values, rows = ({row[0]: row[column] for row in table} for column in (1, 2))
    assert set(rows) == environment_variables()
    assert rows["PORT"] == rows["GRADIO_SERVER_PORT"] == f"`{Settings.port}`"
    assert rows["GRADIO_SERVER_NAME"] == f"`{Settings.host}`"
    for variable, names in (("OLMOE_DTYPE", DTYPES), ("OLMOE_WEIGHTS", WEIGHTS), ("OLMOE_BACKEND", BACKENDS)):
        assert values[variable] == ", ".join(f"`{name}`" for name in names)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_every_file_that_readme_links_exists(link):
    assert (REPOSITORY / link).is_file()


def test_every_chore_of_readme_is_in_the_makefile():
    chores = set(re.findall(r"(?:^|`)(?:\w+=\w+ )?make (\w+)", README, flags=re.MULTILINE))
    targets = set(re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"run", "test", "check", "help"} <= chores <= targets


def test_readme_lays_out_what_there_is():
    layout = README.split("## Layout")[1].split("```")[1]
    named = set(re.findall(r"^  (\S[^ ].*?)  +", layout, flags=re.MULTILINE))
    files = {name.strip(" /") for entry in named for name in entry.split(",")}
    there = {path.name for path in (REPOSITORY / "olmoe_space").iterdir()}
    assert files <= there, files - there
