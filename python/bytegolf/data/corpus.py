"""The embedded corpus: English and Python text that every CPython carries, so that a first run needs no download.

Three kinds of document:

- ``topics``: the language reference as `pydoc` prints it (``pydoc_data.topics``), one document per topic;
- ``docstrings``: one document per module of the standard library, all its docstrings in order of the source, and one per
  built-in module;
- ``sources``: the same modules' source without those docstrings, so that nothing occurs twice.

The text depends on the Python that runs, not on anything installed beside it.

Held out for validation, whole documents of prose, chosen by position alone: every 10th topic and every 40th module's
docstrings, in order of their names. Topics that mostly repeat a longer one (``for`` inside ``compound``) are left out
before choosing. Afterwards every paragraph of training prose, and every training source, that shares a run of 12 words
with the held-out text is dropped, and paragraphs of 12 words or more that repeat earlier training prose are dropped too.
Runs of fewer than 12 words may occur on both sides.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import sys
import sysconfig
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CorpusDocument", "corpus_documents", "corpus_kinds", "embedded_corpus"]

KINDS = ("sources", "docstrings", "topics")
TOPIC_EVERY = 10
DOCSTRINGS_EVERY = 40
RUN_WORDS = 12
# Folders that hold no prose, generated tables, text of `topics` once more, or code that many distributions leave out.
SKIPPED = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data", "encodings", "__pycache__",
                     "lib2to3", "idlelib", "turtledemo", "tkinter", "distutils", "ensurepip", "lib-dynload"})  # fmt: skip

Words = tuple[str, ...]


@dataclass(frozen=True)
class CorpusDocument:
    """One document: where it comes from, its kind (see the module) and its text in UTF-8."""

    name: str
    kind: str
    text: bytes


def embedded_corpus(sources: bool = True) -> tuple[list[bytes], list[bytes]]:
    """(training documents, validation documents); without ``sources`` the training side is prose alone."""
    train, val = corpus_documents(sources)
    return [d.text for d in train], [d.text for d in val]


def corpus_kinds(documents: list[CorpusDocument]) -> dict[str, tuple[int, int]]:
    """(documents, bytes) by kind, in the order of training."""
    return {k: (sum(d.kind == k for d in documents), sum(len(d.text) for d in documents if d.kind == k)) for k in KINDS}


def corpus_documents(sources: bool = True) -> tuple[list[CorpusDocument], list[CorpusDocument]]:
    """(training, validation) documents in a fixed order: sources, docstrings, topics, each by name.

    Takes some seconds. ValueError when this Python carries no ``pydoc_data.topics``.
    """
    topics = _distinct(_topics())
    docstrings: list[CorpusDocument] = []
    code: list[CorpusDocument] = []
    for name, path in _modules():
        prose, source = _split_module(name, path)
        if prose:
            docstrings.append(CorpusDocument(name, "docstrings", prose))
        if source and sources:
            code.append(CorpusDocument(name, "sources", source))
    docstrings = sorted([*docstrings, *_builtins()], key=lambda d: d.name)
    val = [*docstrings[DOCSTRINGS_EVERY - 1 :: DOCSTRINGS_EVERY], *topics[TOPIC_EVERY - 1 :: TOPIC_EVERY]]
    held = {d.name for d in val if d.kind == "docstrings"}, {d.name for d in val if d.kind == "topics"}
    runs = {run for d in val for p in _paragraphs(d.text.decode()) for run in _runs(p.split())}

    train = [d for d in code if not any(run in runs for run in _runs(d.text.decode().split()))]
    seen: set[Words] = set()
    prose_documents = [d for d in docstrings if d.name not in held[0]] + [d for d in topics if d.name not in held[1]]
    for d in prose_documents:
        kept = []
        for paragraph in _paragraphs(d.text.decode()):
            words = tuple(paragraph.split())
            if any(run in runs for run in _runs(words)) or (len(words) >= RUN_WORDS and words in seen):
                continue
            seen.add(words)
            kept.append(paragraph)
        if any(p.strip() for p in kept):
            train.append(CorpusDocument(d.name, d.kind, ("\n\n".join(kept).strip("\n") + "\n").encode()))
    return train, val


def _topics() -> list[CorpusDocument]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ValueError(f"this Python ({sys.executable}) carries no pydoc_data.topics: {error}") from None
    return [CorpusDocument(name, "topics", _utf8(topics[name].strip("\n") + "\n")) for name in sorted(topics)]


def _distinct(documents: list[CorpusDocument]) -> list[CorpusDocument]:
    """Without those most of whose words occur in paragraphs of longer documents; order kept."""
    seen: set[Words] = set()
    kept = set()
    for d in sorted(documents, key=lambda d: (-len(d.text), d.name)):
        paragraphs = [tuple(p.split()) for p in _paragraphs(d.text.decode())]
        repeated = sum(len(p) for p in paragraphs if p in seen)
        if 2 * repeated <= sum(map(len, paragraphs)):
            kept.add(d.name)
            seen.update(paragraphs)
    return [d for d in documents if d.name in kept]


def _modules() -> Iterator[tuple[str, Path]]:
    """(dotted name, path) of every module of the standard library that is plain source, by name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in SKIPPED and not f.startswith(("config-", "."))]
        for file in files:
            if file.endswith(".py") and not file.startswith("_sysconfigdata"):
                path = Path(folder, file)
                name = ".".join(path.relative_to(root).with_suffix("").parts)
                found.append((name.removesuffix(".__init__"), path))
    return iter(sorted(found))


def _split_module(name: str, path: Path) -> tuple[bytes, bytes]:
    """(docstrings, source without them); both empty when the file is not readable Python."""
    try:
        source = path.read_bytes().decode("utf-8")
        tree = ast.parse(source)
    except (OSError, ValueError, SyntaxError):
        return b"", b""
    lines = source.splitlines(keepends=True)
    parts: list[tuple[int, str]] = []
    for holder, label in _holders(tree, name):
        text = ast.get_docstring(holder, clean=True)
        if not text:
            continue
        node = holder.body[0]
        first, last = node.lineno - 1, node.end_lineno or node.lineno
        parts.append((first, f"{label}\n\n{text}"))
        alone = lines[first][: node.col_offset].strip() == "" and len(holder.body) > 1
        if alone and (len(lines[last - 1].encode()) == 0 or _ends_line(lines[last - 1], node.end_col_offset)):
            lines[first:last] = [""] * (last - first)
    prose = "\n\n".join(text for _, text in sorted(parts))
    code = re.sub(r"\n{3,}", "\n\n\n", "".join(lines)).strip("\n")
    return _utf8(prose + "\n") if prose else b"", _utf8(code + "\n") if code.strip() else b""


def _ends_line(line: str, end_byte: int | None) -> bool:
    return line.encode()[end_byte or 0 :].strip() == b""


Holder = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _holders(tree: ast.Module, name: str) -> Iterator[tuple[Holder, str]]:
    """Everything that may carry a docstring, with its dotted name."""
    stack: list[tuple[Holder, str]] = [(tree, name)]
    while stack:
        holder, label = stack.pop()
        yield holder, label
        for child in ast.iter_child_nodes(holder):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                stack.append((child, f"{label}.{child.name}"))


def _builtins() -> Iterator[CorpusDocument]:
    """Docstrings of the modules compiled into the interpreter, which have no source to read."""
    for name in sorted(sys.builtin_module_names):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        seen: set[str] = set()
        parts: list[str] = []
        for label, text in _described(module, name, 2):
            if text not in seen:
                seen.add(text)
                parts.append(f"{label}\n\n{text}")
        if parts:
            yield CorpusDocument(f"{name} (built in)", "docstrings", _utf8("\n\n".join(parts) + "\n"))


def _described(thing: object, label: str, depth: int) -> Iterator[tuple[str, str]]:
    text = getattr(thing, "__doc__", None)
    if isinstance(text, str) and text.strip():
        yield label, inspect.cleandoc(text)
    if depth and isinstance(thing, types.ModuleType | type):
        for key in sorted(vars(thing)):
            child = vars(thing)[key]
            if callable(child) or isinstance(child, property | types.GetSetDescriptorType):
                yield from _described(child, f"{label}.{key}", depth - 1)


def _paragraphs(text: str) -> list[str]:
    return re.split(r"\n[ \t]*\n", text)


def _runs(words: list[str] | Words) -> Iterator[Words]:
    """Every run of RUN_WORDS words."""
    for i in range(len(words) - RUN_WORDS + 1):
        yield tuple(words[i : i + RUN_WORDS])


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", errors="replace")
