"""Files of every kind -> shards: the bytes are kept, documents stay whole, counts are checked, faults name their place."""

import bz2
import gzip
import json
import lzma
import os
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from bytegolf import FormatError
from bytegolf.data import read_documents, write_shards
from bytegolf.data.prepare import PrepareOptions, prepare, prepare_notes, prepare_table
from bytegolf.data.sources import documents_of, files_of, find


def run(sources, output, split="train", **options):
    sources = sources if isinstance(sources, list) else [sources]
    result = prepare(PrepareOptions(sources=sources, output=output, split=split, **options))
    return result, {s: list(read_documents(output, options.get("family", "byte260"), s)) for s in result.counts}


def lines(texts, **more):
    return "".join(json.dumps({"text": t, **more}) + "\n" for t in texts).encode()


def test_text_files_are_taken_as_they_are(tmp_path):
    kinds = {
        "a_one.txt": b"x",
        "b_empty.txt": b"",
        "c_binary.dat": bytes(range(256)) * 3,
        "d_invalid.md": b"caf\xe9 \xff\xfe ok",
        "sub/e_large.txt": os.urandom(3_000_000),
        "sub/f.txt.gz": gzip.compress(b"packed"),
    }
    for name, data in kinds.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    (tmp_path / "in" / ".hidden").write_bytes(b"no")
    result, found = run(tmp_path / "in", tmp_path / "out")
    assert found["train"] == [b"x", *[kinds[n] for n in list(kinds)[2:5]], b"packed"]
    assert result.counts["train"].empty == 1 and result.documents == 5
    _, some = run(tmp_path / "in", tmp_path / "md", glob="*.md")
    assert some["train"] == [kinds["d_invalid.md"]]


@pytest.mark.parametrize("data", [b"", b"\n", b"  \n\n"])
def test_nothing_to_write_is_an_error_and_leaves_nothing(tmp_path, data):
    (tmp_path / "x.jsonl").write_bytes(data)
    with pytest.raises(ValueError, match="no documents for the train shards"):
        run(tmp_path / "x.jsonl", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


TEXTS = ["plain", "naïve ☃ 🎉", "two\nlines", "", "tab\t\u0000 nul", "\ud800 lone"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".bz2", ".zst"])
def test_json_lines_plain_and_packed(tmp_path, suffix):
    zstandard = pytest.importorskip("zstandard")
    half, rest = lines(TEXTS[:3]), b"\n" + lines(TEXTS[3:])
    pack = {
        "": bytes,
        ".gz": gzip.compress,
        ".xz": lzma.compress,
        ".bz2": bz2.compress,
        ".zst": zstandard.ZstdCompressor().compress,
    }[suffix]
    path = tmp_path / f"x.jsonl{suffix}"
    path.write_bytes(pack(half) + pack(rest))  # two members, one after the other
    _, found = run(path, tmp_path / "out")
    assert found["train"] == [t.encode("utf-8", "surrogatepass") for t in TEXTS if t]


@pytest.mark.parametrize("suffix", ["gz", "xz", "bz2", "zst"])
def test_cut_and_foreign_packed_files_are_format_errors(tmp_path, suffix):
    zstandard = pytest.importorskip("zstandard")
    random.seed(1)
    data = lines(["".join(random.choices("abcdefgh ", k=2000)) for _ in range(20)])
    pack = {
        "gz": gzip.compress,
        "xz": lzma.compress,
        "bz2": bz2.compress,
        "zst": zstandard.ZstdCompressor().compress,
    }[suffix](data)
    path = tmp_path / f"x.jsonl.{suffix}"
    for damaged in (pack[: len(pack) // 2], pack[:-1], b"not packed at all"):
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match=rf"x\.jsonl\.{suffix}: damaged"):
            run(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{broken", "not valid JSON"),
        (b'{"text": "\xff"}', "not valid UTF-8 at byte 10"),
        (b"[1]", "expected an object with the field 'text', got list"),
        (b'{"body": "x"}', "no field 'text'; fields here: 'body'"),
        (b'{"text": 3}', "field 'text' holds int"),
        (b"[" * 100_000, "JSON nested too deeply|not valid JSON"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, says):
    (tmp_path / "x.jsonl").write_bytes(lines(["fine"]) + line + b"\n")
    with pytest.raises(FormatError, match=rf"x\.jsonl, line 2: ({says})"):
        run(tmp_path / "x.jsonl", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


def test_another_field_and_a_long_line(tmp_path):
    long = "long line ☃ " * 400_000  # 5.6 MB
    (tmp_path / "x.jsonl").write_bytes(json.dumps({"body": long}).encode())
    _, found = run(tmp_path / "x.jsonl", tmp_path / "out", text_field="body", shard_ids=1_000_000)
    assert found["train"] == [long.encode()]


def test_parquet_columns(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    texts = ["a", None, "ü" * 70, *map(str, range(200))]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": texts, "n": list(range(len(texts)))}), path)
    result, found = run(path, tmp_path / "out")
    assert found["train"] == [t.encode() for t in texts if t] and result.counts["train"].empty == 1
    with pytest.raises(FormatError, match="no column 'body'; columns here: 'text', 'n'"):
        run(path, tmp_path / "no", text_field="body")
    with pytest.raises(FormatError, match="column 'n' holds int64"):
        run(path, tmp_path / "no", text_field="n")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FormatError, match="not readable as Parquet"):
        run(path, tmp_path / "no")


def test_division_into_training_and_validation(tmp_path):
    texts = [f"document {i}" for i in range(100)]
    (tmp_path / "x.jsonl").write_bytes(lines(texts))
    (tmp_path / "v.jsonl").write_bytes(lines(["held out"]))
    everything = [t.encode() for t in texts]

    def divide(name, **rule):
        return run(tmp_path / "x.jsonl", tmp_path / name, **rule)[1]

    assert divide("first", val_first=3)["val"] == everything[:3]
    assert divide("every", val_every=10)["val"] == everything[9::10]
    assert divide("every2", val_every=10)["train"] == [d for i, d in enumerate(everything) if i % 10 != 9]
    other = divide("other", val_sources=[tmp_path / "v.jsonl"])
    assert other == {"train": everything, "val": [b"held out"]}
    by_hash = divide("hash", val_fraction=0.3)
    assert sorted(by_hash["train"] + by_hash["val"]) == sorted(everything) and 15 <= len(by_hash["val"]) <= 45
    (tmp_path / "x.jsonl").write_bytes(lines(texts[::-1]))
    assert sorted(divide("again", val_fraction=0.3)["val"]) == sorted(by_hash["val"])  # whatever the order
    assert list(divide("alone", split="val")) == ["val"]


def test_limits_and_count_checks(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(lines(["aaaa", "", "bbbb", "cccc"]))
    x = tmp_path / "x.jsonl"
    assert run(x, tmp_path / "a", max_documents=2)[1]["train"] == [b"aaaa", b"bbbb"]
    assert run(x, tmp_path / "b", max_bytes=11)[1]["train"] == [b"aaaa", b"bbbb"]
    run(x, tmp_path / "c", expect_documents=3, expect_bytes=12)
    for wrong in ({"expect_documents": 4}, {"expect_bytes": 13}, {"expect": "fineweb-val"}):
        with pytest.raises(ValueError, match="count check failed"):
            run(x, tmp_path / "d", **wrong)
        assert os.listdir(tmp_path / "d") == []


@pytest.mark.parametrize(
    "options",
    [
        {"sources": []},
        {"split": "test"},
        {"val_first": 1, "val_every": 2},
        {"val_every": 1},
        {"val_fraction": 1.0},
        {"val_first": -1},
        {"expect": "imagenet"},
        {"split": "val", "val_first": 1},
        {"format": "docx"},
        {"family": "byte999"},
    ],
)
def test_impossible_options_are_refused(tmp_path, options):
    (tmp_path / "x.txt").write_bytes(b"x")
    with pytest.raises(ValueError):
        prepare(PrepareOptions(**{"sources": [tmp_path / "x.txt"], "output": tmp_path / "out", **options}))


def test_empty_documents_count_for_no_rule_and_no_limit(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(lines(["", "a", "", "b", "c", "d"]))
    x = tmp_path / "x.jsonl"
    assert run(x, tmp_path / "first", val_first=2)[1] == {"train": [b"c", b"d"], "val": [b"a", b"b"]}
    assert run(x, tmp_path / "every", val_every=2)[1] == {"train": [b"a", b"c"], "val": [b"b", b"d"]}
    result, found = run(x, tmp_path / "few", val_first=1, max_documents=3)
    assert found == {"train": [b"b", b"c"], "val": [b"a"]}
    assert result.counts["train"].empty == 2


def folder_of(path, **texts):
    path.mkdir()
    for name, text in texts.items():
        (path / f"{name}.txt").write_bytes(text.encode())
    return path


def manifest(folder, split="train"):
    return json.loads((folder / f"{split}_manifest.json").read_text())


@pytest.mark.parametrize("kind", ["same", "spelling", "link", "hard link", "folder", "linked folder"])
def test_a_file_of_the_validation_is_left_out_of_the_training_however_it_is_named(tmp_path, kind):
    corpus = folder_of(tmp_path / "corpus", a="one", b="two", v="held")
    (corpus / "sub").mkdir()
    named = {
        "same": corpus / "v.txt",
        "spelling": f"{corpus}/sub/.././/v.txt",
        "link": tmp_path / "link.txt",
        "hard link": tmp_path / "hard.txt",
        "folder": tmp_path / "held",
        "linked folder": tmp_path / "held",
    }[kind]
    if kind == "link":
        named.symlink_to(corpus / "v.txt")
    elif kind == "hard link":
        os.link(corpus / "v.txt", named)
    elif kind == "folder":
        named.mkdir()
        os.link(corpus / "v.txt", named / "other name.txt")
    elif kind == "linked folder":
        (corpus / "v.txt").rename(corpus / "sub" / "v.txt")
        named.symlink_to(corpus / "sub", target_is_directory=True)
    result, found = run(corpus, tmp_path / "out", val_sources=[named])
    assert found == {"train": [b"one", b"two"], "val": [b"held"]}
    assert result.left_out.held_out_files == 1
    assert manifest(tmp_path / "out")["left_out"]["held_out_files"] == 1
    assert prepare_notes(result) == ["1 file of the validation left out of the training"]
    _, kept = run(corpus, tmp_path / "kept", val_sources=[named], allow_overlap=True)
    assert kept["val"] == [b"held"] and sorted(kept["train"]) == [b"held", b"one", b"two"]


def test_a_file_is_read_once_however_often_it_is_named(tmp_path):
    corpus = folder_of(tmp_path / "corpus", a="one", b="two")
    (corpus / "c.txt").symlink_to("a.txt")
    os.link(corpus / "b.txt", corpus / "d.txt")
    (corpus / "again").symlink_to(corpus, target_is_directory=True)  # leads back to the folder itself
    result, found = run([corpus, f"{corpus}/.", corpus / "a.txt"], tmp_path / "out")
    assert found["train"] == [b"one", b"two"]
    assert result.left_out.repeated_files == 2 + 4 + 1
    assert prepare_notes(result) == ["7 files named more than once: read once"]


def test_nothing_to_train_on_is_said(tmp_path):
    corpus = folder_of(tmp_path / "corpus", a="one")
    with pytest.raises(ValueError, match="every file of the sources is among val_sources"):
        run(corpus, tmp_path / "out", val_sources=[corpus / "a.txt"])
    copied = folder_of(tmp_path / "copied", b="one")
    with pytest.raises(
        ValueError, match=r"no documents for the train shards \(0 empty ones skipped, 1 held-out ones left out"
    ):
        run(corpus, tmp_path / "out", val_sources=[copied])
    assert os.listdir(tmp_path / "out") == []


# By hand; the training keeps its order. With every fourth held out, the first a stands before the one that is held out.
@pytest.mark.parametrize(
    ("texts", "rule", "train", "val"),
    [
        ("abacdbad", {"val_first": 2}, "cdd", "ab"),
        ("abcdbcaa", {"val_every": 4}, "bcbc", "da"),
        ("abacdbad", {"val_sources": "cx"}, "abadbad", "cx"),
    ],
)
def test_no_held_out_document_is_trained_on(tmp_path, texts, rule, train, val):
    (tmp_path / "x.jsonl").write_bytes(lines(texts))
    sources = len(texts)
    if "val_sources" in rule:
        (tmp_path / "v.jsonl").write_bytes(lines(rule["val_sources"]))
        sources += len(rule["val_sources"])
        rule = {"val_sources": [tmp_path / "v.jsonl"]}
    result, found = run(tmp_path / "x.jsonl", tmp_path / "out", **rule)
    assert {split: b"".join(documents).decode() for split, documents in found.items()} == {"train": train, "val": val}
    assert result.left_out.held_out_documents == sources - len(train) - len(val) > 0
    facts = manifest(tmp_path / "out"), manifest(tmp_path / "out", "val")
    assert facts[0]["left_out"]["held_out_documents"] == result.left_out.held_out_documents
    assert facts[0]["divided_by"] == facts[1]["divided_by"] != ""
    everything, _ = run(tmp_path / "x.jsonl", tmp_path / "kept", allow_overlap=True, **rule)
    assert everything.documents == sources and not prepare_notes(everything)


def shards_in(folder):
    return {name: (folder / name).read_bytes() for name in os.listdir(folder)}


@pytest.mark.parametrize("family", ["byte260", "byte256"])
@pytest.mark.parametrize("overwrite", [True, False])
def test_one_split_is_not_made_beside_the_other_half_of_another_division(tmp_path, family, overwrite):
    corpus, out = folder_of(tmp_path / "corpus", a="one", b="two"), tmp_path / "out"
    run(corpus, out, val_every=2, family=family)
    if not overwrite:
        for path in out.glob("train_*"):
            path.unlink()
    before = shards_in(out)
    with pytest.raises(
        ValueError, match=r"holds val shards of another call, which divided its documents by val_every = 2"
    ):
        run(corpus, out, overwrite=overwrite, family=family)
    assert shards_in(out) == before
    run(corpus, out, val_first=1, overwrite=True, family=family)  # both at once
    run(corpus, out, overwrite=True, allow_overlap=True, family=family)


def test_splits_made_one_after_the_other_share_no_document(tmp_path):
    corpus, other = folder_of(tmp_path / "corpus", a="one", b="two"), folder_of(tmp_path / "other", c="two", d="three")
    run(corpus, tmp_path / "a", split="val")
    result, found = run(other, tmp_path / "a")
    assert found["train"] == [b"three"] and result.left_out.held_out_documents == 1
    run(other, tmp_path / "b")
    before = shards_in(tmp_path / "b")
    with pytest.raises(
        ValueError, match=r"1 documents of the train shards in .* are among the 2 that are to be held out"
    ):
        run(corpus, tmp_path / "b", split="val")
    assert shards_in(tmp_path / "b") == before
    run(corpus / "a.txt", tmp_path / "b", split="val")
    # A folder of an earlier version: its manifest says nothing of how it was divided.
    for name in ("train_manifest.json", "val_manifest.json"):
        facts = manifest(tmp_path / "b", name.split("_")[0])
        (tmp_path / "b" / name).write_text(
            json.dumps({k: v for k, v in facts.items() if k not in ("divided_by", "left_out")})
        )
    result, found = run(corpus, tmp_path / "b", overwrite=True)
    assert found["train"] == [b"two"] and result.left_out.held_out_documents == 1


def test_shards_that_do_not_separate_documents_are_not_completed_unseen(tmp_path):
    corpus, other = folder_of(tmp_path / "corpus", a="one"), folder_of(tmp_path / "other", b="two")
    run(corpus, tmp_path / "out", split="val", family="byte256")
    with pytest.raises(ValueError, match="the family byte256 does not separate documents"):
        run(other, tmp_path / "out", family="byte256")
    run(other, tmp_path / "out", family="byte256", allow_overlap=True)


def test_files_about_the_data_are_no_documents_of_a_folder(tmp_path):
    def names(folder, **more):
        found = find([folder], **more)
        return [path.name for path in found.files], [path.name for path in found.about]

    rows = folder_of(tmp_path / "rows")
    (rows / "x.jsonl").write_bytes(lines(["row"]))
    (rows / "README.md").write_text("# About the rows\n")
    (rows / "LICENSE").write_text("Do what you like\n")
    assert names(rows) == (["x.jsonl"], ["LICENSE", "README.md"])
    result, found = run(rows, tmp_path / "out")
    assert found["train"] == [b"row"]
    assert prepare_notes(result) == [
        "2 files about the data (README, LICENSE and the like) not read: name them to have them read"
    ]
    assert names(rows, format="text")[1] == names(rows, glob="*.md")[1] == []
    assert names(rows / "README.md") == (["README.md"], [])
    texts = folder_of(tmp_path / "texts", a="one", README="about")
    (texts / "README.md").write_text("about")
    assert names(texts) == (["README.txt", "a.txt"], ["README.md"])
    notes = folder_of(tmp_path / "notes")
    (notes / "README.md").write_text("start here")
    assert names(notes) == (["README.md"], [])
    (notes / "a.md").write_text("a note")
    assert names(notes) == (["README.md", "a.md"], [])
    (notes / "README.md").write_text("---\nlicense: mit\n---\n# A card of a hub\n")
    assert names(notes) == (["a.md"], ["README.md"])
    (notes / "a.md").unlink()
    with pytest.raises(ValueError, match=r"holds nothing but README\.md"):
        names(notes)


def test_what_is_no_text_in_a_folder_is_refused_by_name(tmp_path):
    for name, data in (("b.csv", b"id,text\n"), ("b.arrow", b"ARROW1\0\0"), ("b.txt", gzip.compress(b"PK\x03\x04"))):
        corpus = folder_of(tmp_path / name, a="one")
        (corpus / name).write_bytes(data)
        with pytest.raises(FormatError, match=rf"{name}.*: this is an? "):
            run(corpus, tmp_path / "out")
        assert os.listdir(tmp_path / "out") == []
        assert len(run(corpus, tmp_path / f"{name} forced", format="text")[1]["train"]) == 2


def test_links_to_folders_are_followed_and_links_to_nothing_refused(tmp_path):
    outside, corpus = folder_of(tmp_path / "outside", x="far"), folder_of(tmp_path / "corpus", a="near")
    (corpus / "more").symlink_to(outside, target_is_directory=True)
    assert [path.read_bytes() for path in files_of(corpus)] == [b"near", b"far"]
    (corpus / "b.txt").symlink_to(tmp_path / "fetched" / "later.txt")
    with pytest.raises(ValueError, match=r"b\.txt is a link to .*later\.txt, which does not exist"):
        files_of(corpus)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is neither a file nor a folder"):
        files_of(tmp_path / "pipe")


def test_missing_inputs_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no such file or folder: .*nope"):
        files_of(tmp_path / "nope")
    with pytest.raises(ValueError, match="holds no file"):
        files_of(tmp_path, "*.md")
    write_shards([b"x"], tmp_path)
    with pytest.raises(ValueError, match="need the SentencePiece model"):
        list(documents_of(files_of(tmp_path, "*.bin")))


def test_progress_shows_on_terminals_only(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"x")
    quiet, loud = Console(record=True, force_terminal=False), Console(record=True, force_terminal=True, width=100)
    for name, console in (("a", quiet), ("b", loud)):
        result = prepare(PrepareOptions(sources=[tmp_path / "x.txt"], output=tmp_path / name), console)
    assert quiet.export_text() == ""
    loud.print(prepare_table(result))
    assert "documents" in loud.export_text()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=8), st.sampled_from(["byte260", "byte256"]))
def test_any_text_survives_json_lines_and_shards(tmp_path_factory, texts, family):
    folder = tmp_path_factory.mktemp("p")
    (folder / "x.jsonl").write_bytes(lines(texts))
    full = [t.encode() for t in texts if t]
    if full:
        _, found = run(folder / "x.jsonl", folder / "out", family=family)
        assert found["train"] == (full if family == "byte260" else [b"".join(full)])


def sp_shards(folder, sp, texts, cut):
    """Shards as the published exporter makes them: bos + pieces, cut anywhere."""
    stream = [i for t in texts for i in (sp.bos_id(), *sp.encode(t))]
    folder.mkdir()
    for n, at in enumerate(range(0, len(stream), cut)):
        part = stream[at : at + cut]
        header = np.zeros(256, "<i4")
        header[:3] = 20240520, 1, len(part)
        (folder / f"fineweb_val_{n:06d}.bin").write_bytes(header.tobytes() + np.array(part, "<u2").tobytes())
    return stream


SENTENCES = [
    "the cat sat on the mat, and the dog (a large one) looked on.",
    "a space leads here",
    "naïve café ☃ 🎉 bytes fall back",
    "numbers 1234567890 and  two spaces",
    "x",
]


@pytest.mark.parametrize("dummy_prefix", [False, True])
def test_sp_shards_come_back_byte_for_byte(tmp_path, dummy_prefix):
    spm = pytest.importorskip("sentencepiece")
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_prefix=str(tmp_path / "m"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=dummy_prefix,
        hard_vocab_limit=False,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_id=0,
        minloglevel=2,
    )
    sp = spm.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    texts = [*SENTENCES, " leading", "  two leading", "\ttab\nline\n", "日本語"]
    stream = sp_shards(tmp_path / "in", sp, texts, 37)
    assert any(sp.is_byte(i) for i in stream)
    _, found = run(tmp_path / "in", tmp_path / "out", split="val", tokenizer=tmp_path / "m.model")
    assert found["val"] == [t.encode() for t in texts]

    first = sorted((tmp_path / "in").iterdir())[0]
    with pytest.raises(FormatError, match="is inside a document; the shard before it is missing"):
        run(sorted((tmp_path / "in").iterdir())[1:2], tmp_path / "no", tokenizer=tmp_path / "m.model")
    data = bytearray(first.read_bytes())
    data[1026:1028] = (5000).to_bytes(2, "little")
    first.write_bytes(data)
    with pytest.raises(FormatError, match="id 5000 at offset 1026 is outside the model's"):
        run(first, tmp_path / "no", tokenizer=tmp_path / "m.model")
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        run(first, tmp_path / "no", tokenizer=first)


def test_sp1024_of_the_challenge(tmp_path):
    spm = pytest.importorskip("sentencepiece")
    shared = os.environ.get("BYTEGOLF_SHARED") or os.path.join(os.path.dirname(__file__), "..", "..", "shared")
    model = os.path.join(shared, "data", "tokenizers", "fineweb_1024_bpe.model")
    if not os.path.exists(model):
        pytest.skip(f"no {model}: set BYTEGOLF_SHARED")
    sp = spm.SentencePieceProcessor(model_file=model)
    texts = ["The quick brown fox, twice.", "Plain English (and numbers: 12,345)!", "one more document"]
    sp_shards(tmp_path / "in", sp, texts, 11)
    _, found = run(tmp_path / "in", tmp_path / "out", split="val", tokenizer=model)
    assert found["val"] == [t.encode() for t in texts]

    stream = sp_shards(tmp_path / "unknown", sp, ["the caf\u00e9 is open"], 99)
    if sp.unk_id() in stream:
        with pytest.warns(UserWarning, match="1 unknown pieces in .*unknown gave no bytes"):
            _, found = run(tmp_path / "unknown", tmp_path / "out2", split="val", tokenizer=model)
        assert found["val"] == [b"the caf is open"]
