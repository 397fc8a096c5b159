"""Servers that do not answer, drip, or answer what no Hub says: given up, told, no token shown."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, file_download
from loopback_hub import Fault, LoopbackHub
from tiny import tiny_model

from hfprune.core import waiting
from hfprune.core.errors import CheckpointError, DataError, HubError
from hfprune.data.readers.hub import load_named
from hfprune.models.configs import load_config
from hfprune.models.fetching import fetch
from hfprune.models.loading import load_processor
from hfprune.models.saved import load_alike, load_saved
from hfprune.publish.failures import diagnose
from hfprune.publish.push import push
from tests.publish.test_hub import NAME, TOKEN, go_online, results_of, written


class Slow:
    """Takes connections and reads what comes; answers with a byte now and then, or nothing."""

    def __init__(self, drip: bytes) -> None:
        self.drip, self.stop = drip, threading.Event()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while not self.stop.is_set():
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            if self.drip:
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: 100000\r\n\r\n"
                )
            while not self.stop.wait(0.05):
                try:
                    connection.sendall(self.drip)
                except OSError:
                    return

    def close(self) -> None:
        self.stop.set()
        self.server.close()


@pytest.fixture(params=[b"", b" "], ids=["silent", "dripping"])
def slow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    server = Slow(request.param)
    go_online(monkeypatch, server.url)
    yield server
    server.close()
    for thread in waiting._abandoned:
        thread.join(20)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = written(tmp_path, results_of())
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_an_upload_to_a_server_that_stalls_is_given_up(
    slow: Slow, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(waiting, "SECONDS_BETWEEN_WORDS", 0.1)
    monkeypatch.setattr("hfprune.publish.push.within.__kwdefaults__", {"tell": None, "every": 0.1})
    with pytest.raises(HubError) as caught:
        push(run, NAME, timeout=0.5, note=told.append)
    text = str(caught.value)
    assert f"{slow.url} did not take it in time (not done within 0 s)" in text
    assert "allow more with --timeout" in text
    assert "The folder is whole and unchanged; to try again: hfprune push" in text
    assert any("waiting for the Hub" in line for line in told)
    assert TOKEN not in text + " ".join(told)


def test_a_download_from_a_server_that_stalls_is_given_up(slow: Slow) -> None:
    with pytest.raises(CheckpointError) as caught:
        fetch("user/model", None, seconds=0.5)
    text = str(caught.value)
    assert "the Hub did not send what user/model holds within 0 s" in text
    assert "hf download user/model" in text


DOORS = {
    "inspect": load_saved,
    "teacher": lambda name: load_alike(name, tiny_model("bert"), "teacher"),
    "config": load_config,
    "tokenizer": lambda name: load_processor(
        name,
        "single_label_classification",
        revision=None,
        trust_remote_code=False,
        key="model.tokenizer",
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_no_small_file_is_waited_for_without_a_limit(
    door: str, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**(fetch.__kwdefaults__ or {}), "seconds": 0.5}
    monkeypatch.setattr(fetch, "__kwdefaults__", given)
    with pytest.raises(CheckpointError, match="the Hub did not send what user/model holds"):
        waiting.within(8, lambda: DOORS[door]("user/model"))


def test_a_data_set_from_a_server_that_stalls_is_given_up(slow: Slow) -> None:
    with pytest.raises(DataError) as caught:
        load_named("user/rows", None, "train", None, seconds=0.5)
    text = str(caught.value)
    assert "the Hub did not send what user/rows holds within 0 s" in text
    assert "hf download --repo-type dataset user/rows" in text
    assert "HF_HUB_OFFLINE=1" in text


def test_the_files_of_a_data_set_may_take_as_long_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    left = threading.Event()
    with LoopbackHub(TOKEN) as hub:
        go_online(monkeypatch, hub.url)
        monkeypatch.setattr(
            datasets, "load_dataset", lambda *_, **given: left.wait(20) and given["split"]
        )
        hub.faults.append(Fault("GET /api/datasets", 200, '{"id": "user/rows", "siblings": []}'))
        with pytest.raises(DataError, match="did not send the files of user/rows within 0 s"):
            load_named("user/rows", None, "train", None, seconds=0.3)
        left.set()
        # Where the Hub says no more than no, it is for the library to speak.
        assert load_named("user/rows", None, "train", None, seconds=5) == "train"
    for thread in waiting._abandoned:
        thread.join(20)


def test_what_a_model_needs_is_fetched_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = {"config.json": b"{}", "model.safetensors": b"weights", "README.md": b"long"}
    with LoopbackHub(TOKEN) as hub:
        hub.add("user/model").commit("main", names)
        go_online(monkeypatch, hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # Before version 1 its downloads keep a copy of their own.
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        for _ in range(2):
            fetch("user/model", None, cache_dir=tmp_path)
        assert hub.count("GET .*resolve.*/model.safetensors") == 1
        assert hub.count("GET .*resolve.*/config.json") == 1
        assert hub.count("README") == 0
    kept = {path.name: path.read_bytes() for path in tmp_path.rglob("snapshots/*/*")}
    assert kept == {name: names[name] for name in ("config.json", "model.safetensors")}


def test_for_a_config_or_a_tokenizer_no_weights_are_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with LoopbackHub(TOKEN) as hub:
        hub.add("user/model").commit(
            "main", {"config.json": b"{}", "model.safetensors": b"weights"}
        )
        go_online(monkeypatch, hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        fetch("user/model", None, cache_dir=tmp_path, weights=False)
        assert hub.count("GET .*resolve.*/config.json") == 1
        assert hub.count("GET .*resolve.*/model.safetensors") == 0


ANSWERS = {
    "no JSON": (b"<html>login here \x1b[31m</html>", "text/html"),
    "a list": (b"[]", "application/json"),
    "a number": (b"3", "application/json"),
    "nothing": (b"{}", "application/json"),
    "null": (b"null", "application/json"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_no_hub_gives_is_told_as_such(
    name: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    body, kind = ANSWERS[name]

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_HEAD = answer

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        go_online(monkeypatch, f"http://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(HubError) as caught:
            push(run, NAME, retries=0)
        server.shutdown()
    text = str(caught.value)
    assert f"the answer of {constants.ENDPOINT} cannot be understood" in text
    assert "is it a Hub, and does no proxy or login page stand in between?" in text
    assert "\x1b" not in text
    assert TOKEN not in text


def test_what_a_server_says_is_shown_and_not_obeyed() -> None:
    class Answer:
        status_code = 403

    error = ValueError("x")
    error.response = Answer()  # type: ignore[attr-defined]
    error.server_message = "no \x1b]0;owned\x07 [bold]access[/bold]\r\n\u202e"  # type: ignore[attr-defined]
    why = diagnose(error, NAME, None, TOKEN).why
    assert r"it said: no \x1b]0;owned\x07 [bold]access[/bold] \u202e" in why
