"""The embedded corpus is deterministic, large enough, and holds nothing of its held-out text in training."""

import pytest

from bytegolf.data import corpus


@pytest.fixture(scope="module")
def split():
    return corpus.corpus_documents()


def test_split_is_by_whole_documents_and_large_enough(split):
    train, val = split
    assert sum(len(d.text) for d in val) >= 64 * 1024
    assert {d.kind for d in val} == {"docstrings", "topics"}
    assert corpus.corpus_kinds(train)["sources"][1] > 3_000_000
    assert corpus.corpus_kinds(train)["docstrings"][1] > 1_000_000
    assert corpus.corpus_kinds(train)["topics"][1] > 200_000
    assert not {(d.kind, d.name) for d in train} & {(d.kind, d.name) for d in val}
    assert all(d.text for d in train + val)


def test_same_text_every_time(split):
    assert corpus.corpus_documents() == split


def test_no_run_of_twelve_words_of_a_held_out_paragraph_is_trained_on(split):
    train, val = split
    runs = {r for d in val for p in corpus._paragraphs(d.text.decode()) for r in corpus._runs(p.split())}
    assert len(runs) > 1000
    for d in train:
        pieces = [d.text.decode()] if d.kind == "sources" else corpus._paragraphs(d.text.decode())
        assert not any(r in runs for p in pieces for r in corpus._runs(p.split())), d.name


def test_docstrings_stand_once_and_code_still_reads():
    source = 'import os\n\n\ndef f():\n    """Say something\n    long."""\n    return 1\n\n\ndef g():\n    "alone"\n\nx = 1; "no docstring"\n'
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.py")
        path.write_text(source)
        prose, code = corpus._split_module("m", path)
        path.write_bytes(b"\xff\xfe not python")
        assert corpus._split_module("m", path) == (b"", b"")
    assert prose == b"m.f\n\nSay something\nlong.\n\nm.g\n\nalone\n"
    assert b"Say something" not in code
    compile(code, "m", "exec")


def test_without_sources_training_is_prose():
    train, val = corpus.embedded_corpus(sources=False)
    assert sum(map(len, train)) > 1_000_000
    assert len(val) > 5
