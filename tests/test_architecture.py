"""Who may import whom, read from the source. A new edge fails here first; if it is right, it is added here."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = "olmoe_space"
FILES = [REPOSITORY / "app.py", *sorted((REPOSITORY / PACKAGE).rglob("*.py"))]

# Parts that deal in plain numbers and text.
PLAIN = {"settings", "checks", "rules", "request", "events", "adaptive", "model_info", "trace", "conversation", "ask",
         "answer", "walk", "comparison", "truth", "race", "survey", "performance", "traffic"}
EVERYTHING = PLAIN | {"model", "engine", "lab", "plots", "expert_plots", "performance_plots", "race_plots", "ui",
                      "scale"}

# Part of the package -> the parts it may import. Nothing flows back towards the page.
OURS: dict[str, set[str]] = {
    "settings": set(),
    "checks": set(),
    "rules": {"checks"},
    "request": {"checks", "rules"},
    "events": set(),
    "adaptive": set(),
    "model_info": set(),
    "comparison": {"trace"},  # what measurements hand out, as events are what the engine does
    "truth": set(),
    "race": {"rules"},
    "survey": set(),
    "performance": set(),
    "conversation": {"request"},
    "trace": {"events"},
    "traffic": {"events"},
    "walk": set(),
    "ask": {"request", "rules", "settings", "adaptive", "model_info", "trace", "events"},
    "answer": {"adaptive", "trace"},
    "model": {"settings", "request", "model_info"},
    "engine": {"request", "rules", "events", "conversation", "model"},
    "lab": {"request", "rules", "events", "trace", "walk", "adaptive", "ask", "model_info", "conversation", "model",
            "engine", "comparison", "truth", "race", "survey", "performance"},
    "plots": set(),
    "expert_plots": {"plots"},
    "race_plots": {"plots"},
    "performance_plots": {"plots", "performance"},
    # everything but engine and model: it is handed callables
    "ui": PLAIN | {"plots", "expert_plots", "performance_plots", "race_plots"},
    # an engine elsewhere and the face to others are events and requests; a replica holds the engine itself
    "scale": {"settings", "checks", "rules", "request", "events", "model_info", "ask", "library", "model", "engine",
              "lab"},
    "training": PLAIN | {"model", "engine", "lab"},
    "library": EVERYTHING - {"ui", "scale"},
    "__init__": {"library"},
    "shell": EVERYTHING - {"ui"} | {"library"},
    "__main__": {"shell", "model"},  # it dispatches, and words what could not be loaded
    "app": EVERYTHING | {"shell"},
}

# Part of the package -> what it may use beside the standard library.
OTHERS: dict[str, set[str]] = {
    "events": {"numpy"},
    "trace": {"numpy"},
    "comparison": {"numpy"},
    "truth": {"numpy"},
    "race": {"numpy"},
    "survey": {"numpy"},
    "performance": {"numpy"},
    "walk": {"numpy"},
    "model": {"torch", "transformers", "safetensors", "huggingface_hub"},
    "engine": {"torch", "numpy", "tokenizers", "triton", "numba", "llvmlite"},  # llvmlite: what numba compiles with
    "lab": {"torch", "numpy", "transformers"},
    "plots": {"numpy", "matplotlib"},
    "expert_plots": {"numpy", "matplotlib"},
    "race_plots": {"matplotlib"},
    "performance_plots": {"numpy", "matplotlib"},
    # matplotlib: the type of its figures; mcp: of what gradio's tools answer
    "ui": {"gradio", "fastapi", "httpx", "starlette", "numpy", "matplotlib", "mcp"},
    "scale": {"numpy", "torch", "fastapi", "starlette", "httpx", "ray"},
    "shell": {"huggingface_hub", "uvicorn", "numpy"},
    "training": {"torch", "numpy", "transformers", "tokenizers", "safetensors", "zstandard"},
    "app": {"gradio", "spaces"},
}


def part_of(path: Path) -> str:
    """olmoe_space/engine/cache.py -> engine; olmoe_space/trace.py -> trace; app.py -> app."""
    inside = path.relative_to(REPOSITORY).with_suffix("").parts
    return inside[1] if inside[0] == PACKAGE else inside[0]


def tree(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute name of the module or of what is taken from it) of every import, wherever it stands."""
    package = list(path.relative_to(REPOSITORY).parts[:-1])
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def attributes(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every attribute access on a plain name, such as os.environ."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.lineno, f"{node.value.id}.{node.attr}"


def wrong_imports(path: Path) -> list[str]:
    part, wrong = part_of(path), []
    for line, name in imports(path):
        top, *rest = name.split(".")
        if top == PACKAGE:
            target = rest[0] if rest else "__init__"
            fine = target == part or target in OURS[part]
        else:
            fine = top in sys.stdlib_module_names or top in OTHERS.get(part, set())
        if not fine:
            wrong.append(f"{path.relative_to(REPOSITORY)}:{line}: {part} may not import {name}")
    return wrong


def everywhere(found) -> list[str]:
    return [f"{path.relative_to(REPOSITORY)}:{line}: {what}" for path in FILES for line, what in found(path)]


def test_every_part_has_its_row():
    assert {part_of(path) for path in FILES} <= set(OURS)
    assert set().union(*OURS.values()) <= set(OURS) and set(OTHERS) <= set(OURS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_follow_the_table(path):
    assert not wrong_imports(path)


def test_nothing_flows_in_a_circle():
    seen: set[str] = set()

    def visit(part: str, way: tuple[str, ...]) -> None:
        assert part not in way, " -> ".join((*way, part))
        if part not in seen:
            for target in OURS[part]:
                visit(target, (*way, part))
            seen.add(part)

    for part in OURS:
        visit(part, ())


def test_only_settings_read_the_environment():
    def readers(path: Path) -> list[tuple[int, str]]:
        if part_of(path) == "settings":
            return []
        return [hit for hit in (*attributes(path), *imports(path))
                if hit[1] in ("os.environ", "os.environb", "os.getenv", "os.putenv")]
    assert not everywhere(readers)


def test_only_replicas_need_ray():
    """It is optional: the page, and a front end of replicas, start without it."""
    def needs(path: Path) -> list[tuple[int, str]]:
        return [hit for hit in imports(path) if hit[1].split(".")[0] == "ray"]
    using = {path for path in FILES if needs(path)}
    assert {path.name for path in using} == {"deployment.py", "front.py", "replica.py", "router.py"}
    names = {f"{PACKAGE}.scale.{path.stem}" for path in using}
    importing = {path.name for path in FILES
                 if any(hit[1].startswith(tuple(names)) for hit in imports(path))} - {p.name for p in using}
    assert importing == {"serve.py"}


def test_no_figure_is_global():
    """pyplot keeps every figure it makes, in a server for ever."""
    assert not everywhere(lambda path: [hit for hit in imports(path) if "pyplot" in hit[1] or "pylab" in hit[1]])


def test_no_code_comes_with_a_checkpoint():
    def trusting(path: Path) -> list[tuple[int, str]]:
        return [(node.value.lineno, "trust_remote_code") for node in ast.walk(tree(path))
                if isinstance(node, ast.keyword) and node.arg == "trust_remote_code"
                and not (isinstance(node.value, ast.Constant) and node.value.value is False)]
    assert not everywhere(trusting)


def test_no_import_hides_from_this_test():
    def hidden(path: Path) -> list[tuple[int, str]]:
        calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
        return [(call.lineno, "an import by name") for call in calls
                if (isinstance(call.func, ast.Name) and call.func.id in ("__import__", "exec", "eval"))
                or (isinstance(call.func, ast.Attribute) and call.func.attr == "import_module")]
    assert not everywhere(hidden)


@pytest.mark.parametrize(("source", "expected"), [
    ("import gradio", "may not import gradio"),
    ("from ..ui import page", "may not import olmoe_space.ui"),
    ("def late():\n    from olmoe_space.ui.page import build_page", "may not import olmoe_space.ui"),
    ("from .. import plots", "may not import olmoe_space.plots"),
])
def test_the_reader_sees_what_it_should(tmp_path, monkeypatch, source, expected):
    folder = tmp_path / PACKAGE / "engine"
    folder.mkdir(parents=True)
    (folder / "new.py").write_text(source)
    monkeypatch.setattr(sys.modules[__name__], "REPOSITORY", tmp_path)
    [complaint] = wrong_imports(folder / "new.py")
    assert expected in complaint
