"""Fetching chooses the right files and keeps only whole ones. No network: a stand-in hub, and a local server."""

import hashlib
import http.server
import json
import threading
from pathlib import Path

import pytest

from bytegolf.data.fetch import FetchOptions, HuggingFaceHub, RemoteFile, fetch, select

FOLDER = "datasets/datasets/fineweb10B_sp1024"
CONTENT = {
    **{f"{FOLDER}/fineweb_train_{i:06d}.bin": bytes([i]) * (100 + i) for i in range(3)},
    f"{FOLDER}/fineweb_val_000000.bin": b"val" * 50,
    "datasets/tokenizers/fineweb_1024_bpe.model": b"model",
    "datasets/tokenizers/fineweb_2048_bpe.model": b"other",
    "datasets/docs_selected.jsonl": b'{"text": "x"}\n',
    "datasets/manifest.json": b"{}",
}


def git_hash(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class StandIn:
    def __init__(self, content=CONTENT, damage=b""):
        self.content, self.damage, self.downloads = content, damage, []

    def files(self, repo_id, revision, folder):
        assert (repo_id, revision, folder) == ("willdepueoai/parameter-golf", "main", "datasets")
        for path, data in self.content.items():
            large = path.endswith(".bin")
            yield RemoteFile(path, len(data), hashlib.sha256(data).hexdigest() if large else git_hash(data))

    def download(self, repo_id, revision, path, output):
        self.downloads.append(path)
        (output / path).parent.mkdir(parents=True, exist_ok=True)
        (output / path).write_bytes(self.content[path][: -len(self.damage) or None] + self.damage)
        return output / path


def names(paths):
    return [Path(p).name for p in paths]


def test_default_is_validation_one_training_shard_and_the_tokenizer(tmp_path):
    hub, said = StandIn(), []
    paths = fetch(FetchOptions(tmp_path), hub, said.append)
    assert names(paths) == ["fineweb_train_000000.bin", "fineweb_val_000000.bin", "fineweb_1024_bpe.model"]
    assert all((tmp_path / p).read_bytes() == CONTENT[p] for p in hub.downloads)
    assert said[0] == f"[1/3] {FOLDER}/fineweb_train_000000.bin: 100 bytes"
    paths[0].write_bytes(b"damaged since")
    fetch(FetchOptions(tmp_path), hub)
    assert names(hub.downloads[3:]) == ["fineweb_train_000000.bin"]  # the whole ones stay


@pytest.mark.parametrize(("damage", "says"), [(b"!", "its hash is"), (b"", "bytes instead of")])
def test_a_file_that_did_not_arrive_whole_is_deleted(tmp_path, damage, says):
    hub = StandIn(damage=damage)
    if not damage:
        hub.download = lambda repo, revision, path, output: _write(output / Path(path).name, b"short")
    with pytest.raises(OSError, match=says):
        fetch(FetchOptions(tmp_path), hub)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def _write(path, data):
    path.write_bytes(data)
    return path


def test_selection_says_what_is_not_there():
    files = list(StandIn().files("willdepueoai/parameter-golf", "main", "datasets"))

    def chosen(**options):
        return names(f.path for f in select(files, FetchOptions("x", **options)))

    assert chosen(train_shards=0, val=False, docs=True) == ["fineweb_1024_bpe.model", "docs_selected.jsonl"]
    assert chosen(patterns=["*/manifest.json"]) == ["manifest.json"]
    for options, says in [
        ({"variant": "byte260"}, "no variant 'byte260' below datasets; published: sp1024"),
        ({"train_shards": 4}, "train_shards = 4, but .* has 3 of sp1024"),
        ({"train_shards": -1}, "must not be negative"),
        ({"train_shards": 0, "val": False, "tokenizer": False}, "nothing to fetch"),
        ({"patterns": ["*.zip"]}, "no file below datasets that matches"),
    ]:
        with pytest.raises(ValueError, match=says):
            chosen(**options)
    with pytest.raises(ValueError, match="outside its folder"):
        select([RemoteFile("datasets/../../x.bin", 1)], FetchOptions("x"))


class LocalHub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's protocol as listing and downloading need."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path.startswith("/api/datasets/me/data/tree/"):
            rows = [
                {"type": "file", "path": p, "size": len(d), "oid": git_hash(d)}
                for p, d in CONTENT.items()
                if "train" not in p
            ]
            return self.reply(json.dumps(rows).encode(), "application/json")
        name = path.partition("/resolve/main/")[2]
        if name not in CONTENT:
            return self.send_error(404)
        return self.reply(CONTENT[name], "application/octet-stream", git_hash(CONTENT[name]))

    do_HEAD = do_GET

    def reply(self, data, kind, etag=""):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", "0" * 40)
        if etag:
            self.send_header("ETag", f'"{etag}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


def test_huggingface_hub_against_a_local_server(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), LocalHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        hub = HuggingFaceHub(endpoint=f"http://127.0.0.1:{server.server_port}")
        paths = fetch(FetchOptions(tmp_path, repo_id="me/data", train_shards=0), hub)
        assert names(paths) == ["fineweb_val_000000.bin", "fineweb_1024_bpe.model"]
        assert paths[0].read_bytes() == b"val" * 50
        with pytest.raises(OSError, match="cannot list you/none at main"):
            fetch(FetchOptions(tmp_path, repo_id="you/none"), hub)
        with pytest.raises(OSError, match=r"cannot download none\.bin of me/data"):
            hub.download("me/data", "main", "none.bin", tmp_path)
    finally:
        server.shutdown()
        server.server_close()
