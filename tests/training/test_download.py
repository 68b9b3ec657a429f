"""Fetching official weights, against a small hub on this machine."""

import hashlib
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from training import __main__ as command_line
from training import download

REPO, COMMIT = "someone/tokenizer", "c0ffee"
CONTENT = hashlib.shake_256(b"weights").digest(300_000)


class Hub:
    """What the server serves and how it misbehaves."""

    def __init__(self):
        self.content = CONTENT
        self.sha256 = hashlib.sha256(CONTENT).hexdigest()
        self.size = len(CONTENT)
        self.ranges = True
        self.cut_after = []  # bytes after which each connection breaks, first to last
        self.asked = []  # the Range header of every GET of the file


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does: the checksum with a redirect, the bytes from somewhere else."""

    hub: Hub

    def do_HEAD(self):
        self.describe()

    def do_GET(self):
        if self.path == "/storage":
            self.serve()
        else:
            self.describe()

    def describe(self):
        if self.path.startswith("/old/"):
            self.send_response(307)
            self.send_header("Location", self.path.replace("/old/", "/someone/"))
            self.end_headers()
            return
        if self.path not in {f"/{REPO}/resolve/{r}/model.safetensors" for r in ("main", COMMIT)}:
            self.send_error(404)
            return
        self.send_response(302 if self.hub.sha256 else 200)
        if self.hub.sha256:
            self.send_header("Location", "/storage")
        self.send_header("X-Repo-Commit", COMMIT)
        if self.hub.sha256:
            self.send_header("X-Linked-Etag", f'"{self.hub.sha256}"')
            self.send_header("X-Linked-Size", str(self.hub.size))
        self.end_headers()

    def serve(self):
        hub, wanted = self.hub, self.headers.get("Range")
        hub.asked.append(wanted)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and hub.ranges else 0
        body = hub.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(hub.content) - 1}/{len(hub.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: hub.cut_after.pop(0)] if hub.cut_after else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    handler = type("OwnHandler", (Handler,), {"hub": Hub()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    model = download.Published(REPO, len(CONTENT) // 4 - 100)
    monkeypatch.setitem(download.PUBLISHED, "titok-s128", model)
    yield handler.hub
    server.shutdown()
    server.server_close()


def fetch(out, *extra):
    return command_line.main(["download", "titok-s128", "--out", str(out), *extra])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_with_a_record_of_its_source(hub, tmp_path, capsys):
    assert fetch(tmp_path / "new" / "folder") == 0
    folder = tmp_path / "new" / "folder"
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    source = json.loads((folder / "SOURCE.json").read_text())
    assert source["repository"] == REPO
    assert source["revision"] == COMMIT
    assert source["sha256"] == hub.sha256
    assert source["bytes"] == len(CONTENT)
    assert "Apache-2.0" in source["licence"]
    assert source["url"].endswith(f"/{REPO}/resolve/{COMMIT}/model.safetensors")
    assert names(folder) == ["SOURCE.json", "model.safetensors"]
    assert f"--tokenizer {folder}" in capsys.readouterr().out


def test_a_broken_connection_is_taken_up_where_it_broke(hub, tmp_path):
    hub.cut_after = [100_000, 50_000]
    fetch(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == CONTENT
    assert hub.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_an_interrupted_fetch_goes_on_in_the_next_run(hub, tmp_path):
    hub.cut_after = [120_000] + [0] * download.ATTEMPTS
    with pytest.raises(SystemExit, match=r"error: stopped at 120,000 of 300,000 bytes .*run it again"):
        fetch(tmp_path)
    (partial,) = names(tmp_path)
    assert partial.endswith(".partial")
    hub.asked.clear()
    fetch(tmp_path)
    assert hub.asked == ["bytes=120000-"]
    assert (tmp_path / "model.safetensors").read_bytes() == CONTENT
    assert names(tmp_path) == ["SOURCE.json", "model.safetensors"]


def test_a_server_without_ranges_sends_it_all_again(hub, tmp_path):
    hub.ranges, hub.cut_after = False, [70_000]
    fetch(tmp_path)
    assert hub.asked == [None, "bytes=70000-"]
    assert (tmp_path / "model.safetensors").read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_nothing_stays(hub, tmp_path):
    hub.sha256 = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(SystemExit, match="another sha256"):
        fetch(tmp_path)
    assert names(tmp_path) == []


def test_more_bytes_than_stated_are_refused(hub, tmp_path):
    hub.content = CONTENT + b"more"
    with pytest.raises(SystemExit, match="more than the stated 300,000 bytes"):
        fetch(tmp_path)
    assert "model.safetensors" not in names(tmp_path)
    hub.content = CONTENT
    fetch(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT) // 2, len(CONTENT) + (2 << 20)])
def test_a_file_of_a_size_that_the_model_cannot_have_is_not_fetched(hub, tmp_path, size):
    hub.size = size
    with pytest.raises(SystemExit, match="the model needs 299,600"):
        fetch(tmp_path)
    assert hub.asked == []


def test_a_file_without_a_checksum_is_not_fetched(hub, tmp_path):
    hub.sha256 = ""
    with pytest.raises(SystemExit, match="states no sha256"):
        fetch(tmp_path)
    assert names(tmp_path) == []


def test_a_renamed_repository_is_followed(hub, tmp_path, monkeypatch):
    parameters = download.PUBLISHED["titok-s128"].parameters
    monkeypatch.setitem(download.PUBLISHED, "titok-s128", download.Published("old/tokenizer", parameters))
    fetch(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == CONTENT


def test_an_unknown_revision_is_one_clear_line(hub, tmp_path):
    with pytest.raises(SystemExit, match=r"^error: [^\n]*/resolve/v9/model\.safetensors: the hub answers 404[^\n]*$"):
        fetch(tmp_path, "--revision", "v9")


def test_a_hub_out_of_reach_is_one_clear_line(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SystemExit, match=r"^error: cannot reach http://127\.0\.0\.1:9: [^\n]*HF_ENDPOINT[^\n]*$"):
        fetch(tmp_path)


def test_a_whole_file_is_checked_and_not_fetched_again(hub, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(CONTENT)
    fetch(tmp_path)
    assert hub.asked == []
    assert json.loads((tmp_path / "SOURCE.json").read_text())["sha256"] == hub.sha256


def test_another_file_is_not_overwritten(hub, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(SystemExit, match="is another file"):
        fetch(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == b"mine"


def test_a_disk_without_room_is_noticed_before_the_fetch(hub, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SystemExit, match="has no room for the 300,000 bytes"):
        fetch(tmp_path)
    assert hub.asked == []


def test_without_httpx_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(SystemExit, match=r"pip install .*hub"):
        fetch(tmp_path)
