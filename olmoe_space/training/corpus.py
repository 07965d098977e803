"""Reading the corpus: which files are trained on, which are only measured, and how their lines look.

A corpus folder holds `pretrain/<domain>.jsonl[.zst|.xz|.gz]` (`{"text", "source"}`), `chat.jsonl[...]`
(`{"messages", "domain", "source"}`), `own/*.jsonl[...]` (exchanges, see conversations.py), and
`heldout/<domain>.jsonl`. Only `heldout_documents` opens the last; nothing that trains calls it.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

DOMAINS = ("code", "math", "science", "stories", "dialogue", "web")
JUDGED_DOMAINS = ("math", "science", "stories", "dialogue", "web")  # code is prose about code, too little to judge by
SUFFIXES = (".jsonl", ".jsonl.xz", ".jsonl.zst", ".jsonl.gz")
EXCHANGES = Path(__file__).parent / "exchanges"
MAX_SOURCE_BYTES = 300_000  # a longer module is a table (unicode names, big test data), not code to learn from
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "lib2to3", "pydoc_data", "encodings"}


def open_text(path: Path) -> TextIO:
    """The file as UTF-8 text, whatever it is compressed with."""
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8")
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    if path.suffix == ".zst":
        import zstandard

        return io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(path.open("rb")), encoding="utf-8")
    return path.open(encoding="utf-8")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of one file, in order."""
    with open_text(path) as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def find(folder: Path, name: str) -> Path:
    """`folder/name.jsonl` in whichever compression is there."""
    for suffix in SUFFIXES:
        if (folder / (name + suffix)).exists():
            return folder / (name + suffix)
    raise FileNotFoundError(f"{folder} holds no {name}.jsonl (tried {', '.join(SUFFIXES)}); is --corpus right?")


def stem(path: Path) -> str:
    """`words` for `own/words.jsonl.xz`."""
    return path.name.split(".jsonl")[0]


def pretrain_texts(corpus: Path, domain: str) -> Iterator[str]:
    """The documents of one domain."""
    for line in read_lines(find(corpus / "pretrain", domain)):
        yield line["text"]


def chats(corpus: Path) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """(source, messages) of the chat file."""
    for line in read_lines(find(corpus, "chat")):
        yield line["source"], line["messages"]


def exchange_files(corpus: Path) -> dict[str, list[dict[str, Any]]]:
    """Exchanges by file: the corpus' own/, then the ones beside this module under `exchanges:<name>`."""
    own = sorted(path for path in (corpus / "own").iterdir() if path.name.endswith(SUFFIXES))
    files = {f"own:{stem(path)}": list(read_lines(path)) for path in own}
    for path in sorted(EXCHANGES.glob("*.jsonl")):
        files[f"exchanges:{stem(path)}"] = list(read_lines(path))
    return {name: lines for name, lines in files.items() if lines}


def source_code(folder: Path | None = None) -> Iterator[str]:
    """Python sources below `folder`; by default the standard library of the Python that runs this."""
    folder = folder or Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(folder.rglob("*.py")):
        parts = set(path.relative_to(folder).parts)
        if parts & SKIPPED_FOLDERS or path.stat().st_size > MAX_SOURCE_BYTES:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # the library's own tests of other encodings
        if text.strip():
            yield text


def heldout_documents(corpus: Path, domain: str) -> list[str]:
    """Documents that are only ever measured."""
    return [line["text"] for line in read_lines(corpus / "heldout" / f"{domain}.jsonl")]
