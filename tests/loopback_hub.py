"""A stand-in for the Hub on 127.0.0.1: real HTTP, repositories in memory, faults on demand.

It knows what is needed to publish a model and to load it again: repositories, branches, commits of
plain and large files, file listings, downloads. What it stores are the bytes that came, so that a
test compares what arrived and not what was meant to be sent.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import yaml

LARGE = (".safetensors", ".onnx")
RELATIONS = ("finetune", "adapter", "merge", "quantized")


@dataclass
class Fault:
    """Something that goes wrong ``times`` times, where a request's method and path match.

    ``status``: the answer, with ``body``; "reset": the connection is cut before the request is
    read; "lost": the request is carried out, and the connection is cut before the answer.
    """

    pattern: str
    status: int | str
    body: str = "{}"
    times: int = 1


@dataclass
class Repo:
    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        content = [(path, oid(path, data)) for path, data in sorted(files.items())]
        sha = _sha1(repr((len(self.commits), branch, content)).encode())
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]


class LoopbackHub:
    """Use as a context manager; ``url`` is what HF_ENDPOINT must be."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.created: list[dict[str, Any]] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(self, name: str, *, private: bool = False) -> Repo:
        self.repos[name] = Repo(private)
        self.repos[name].commit("main", {".gitattributes": b"*.onnx filter=lfs\n"})
        return self.repos[name]

    def count(self, pattern: str) -> int:
        return sum(re.search(pattern, request) is not None for request in self.requests)


class _Stop(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle_any(self) -> None:
        hub = self.hub
        self.path = unquote(self.path)
        with hub.lock:
            hub.requests.append(f"{self.command} {self.path}")
            found = next(
                (f for f in hub.faults if f.times and re.search(f.pattern, hub.requests[-1])), None
            )
            if found is not None:
                found.times -= 1
        if found is not None and found.status == "reset":
            self.cut()
            return
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if found is not None and isinstance(found.status, int):
            self.answer(found.status, found.body.encode(), {"Content-Type": "application/json"})
            return
        try:
            with hub.lock:
                status, data, headers = self.route()
        except _Stop as stop:
            status, data = stop.status, json.dumps({"error": stop.message}).encode()
            headers = {"X-Error-Code": stop.code, "X-Error-Message": stop.message}
        if found is not None:
            self.cut()
        else:
            self.answer(status, data, headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def cut(self) -> None:
        """A reset, as from a router that gives up."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()
        # The base class goes on to flush and close what is closed already.
        self.wfile = self.rfile = _Nothing()  # type: ignore[assignment]

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # -- what the Hub does ---------------------------------------------------------------------

    def route(self) -> tuple[int, bytes, dict[str, str]]:
        path = urlsplit(self.path).path
        name = r"(?P<name>[^/]+/[^/]+)"
        routes: list[tuple[str, Callable[..., Any]]] = [
            (r"POST /api/repos/create", self.create),
            (r"POST /api/validate-yaml", self.validate_card),
            (rf"POST /api/models/{name}/branch/(?P<branch>.+)", self.create_branch),
            (rf"POST /api/models/{name}/preupload/(?P<branch>.+)", self.preupload),
            (rf"POST /{name}\.git/info/lfs/objects/batch", self.batch),
            (r"PUT /upload/(?P<oid>[0-9a-f]{64})", self.upload),
            (rf"POST /api/models/{name}/commit/(?P<branch>.+)", self.commit),
            (rf"GET /api/models/{name}/tree/(?P<branch>[^/]+)(?P<folder>/.*)?", self.tree),
            (rf"GET /api/models/{name}(?:/revision/(?P<branch>.+))?", self.info),
            (rf"(?:GET|HEAD) /{name}/resolve/(?P<branch>[^/]+)/(?P<file>.+)", self.file),
        ]
        for pattern, action in routes:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                if self.command == "POST" and not self.authorized:
                    raise _Stop(401, "", "Invalid username or password.")
                found = action(**match.groupdict())
                return found if isinstance(found, tuple) else (200, json.dumps(found).encode(), {})
        raise _Stop(404, "", "there is nothing here")

    @property
    def authorized(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def repo(self, name: str) -> Repo:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self.authorized):
            raise _Stop(404, "RepoNotFound", "Repository not found")
        return repo

    def revision(self, repo: Repo, branch: str | None) -> str:
        branch = branch or "main"
        sha = repo.branches.get(branch, branch)
        if sha not in repo.commits:
            raise _Stop(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        return sha

    def create(self) -> Any:
        self.hub.created.append(self.json)
        name = f"{self.json['organization']}/{self.json['name']}"
        answer = {"url": f"{self.hub.url}/{name}", "name": name}
        if name in self.hub.repos:
            answer["error"] = "You already created this model repo"
            return 409, json.dumps(answer).encode(), {}
        private = self.json.get("private") or self.json.get("visibility") == "private"
        self.hub.add(name, private=bool(private))
        return answer

    def create_branch(self, name: str, branch: str) -> Any:
        repo = self.repo(name)
        if branch in repo.branches:
            raise _Stop(409, "", f"Reference already exists: {branch}")
        repo.branches[branch] = repo.branches["main"]
        return {}

    def validate_card(self) -> Any:
        match = re.match(r"---\n(.*?)\n---\n", self.json["content"], re.DOTALL)
        try:
            data = yaml.safe_load(match[1]) if match else {}
            wrong = data.get("base_model_relation", "finetune") not in RELATIONS
            found = ['"base_model_relation" is unknown'] if wrong else []
            for entry in data.get("model-index", []):
                for result in entry["results"]:
                    assert result["task"]["type"]
                    assert result["dataset"]["type"]
                    assert result["dataset"]["name"]
                    assert all(metric["type"] for metric in result["metrics"])
        except (yaml.YAMLError, AssertionError, AttributeError, KeyError, TypeError) as error:
            found = [f"the metadata is malformed: {error!r}"]
        answer = {"errors": [{"message": text} for text in found], "warnings": []}
        return 400 if found else 200, json.dumps(answer).encode(), {}

    def preupload(self, name: str, branch: str) -> Any:
        repo = self.repo(name)
        there = repo.commits[self.revision(repo, branch)]
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": oid(file["path"], there[file["path"]])
                    if file["path"] in there
                    else None,
                }
                for file in self.json["files"]
            ]
        }

    def batch(self, name: str) -> Any:
        self.repo(name)
        objects = []
        for item in self.json["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.large:
                address = f"{self.hub.url}/upload/{item['oid']}"
                entry["actions"] = {"upload": {"href": address, "header": {}}}
            objects.append(entry)
        return {"transfer": "basic", "objects": objects}

    def upload(self, oid: str) -> Any:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Stop(400, "", "the content is not what was announced")
        self.hub.large[oid] = self.body
        return {}

    def commit(self, name: str, branch: str) -> Any:
        repo = self.repo(name)
        files = dict(repo.commits[self.revision(repo, branch)])
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        sha = repo.commit(branch, files)
        return {"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha}

    def info(self, name: str, branch: str | None) -> Any:
        repo = self.repo(name)
        sha = self.revision(repo, branch)
        return {
            "_id": name,
            "id": name,
            "modelId": name,
            "sha": sha,
            "private": repo.private,
            "tags": [],
            "siblings": [{"rfilename": path} for path in sorted(repo.commits[sha])],
        }

    def tree(self, name: str, branch: str, folder: str | None) -> Any:
        repo = self.repo(name)
        inside = f"{folder.strip('/')}/" if folder else ""
        found = [
            {"type": "file", "path": path, "size": len(data), "oid": oid(path, data)}
            for path, data in sorted(repo.commits[self.revision(repo, branch)].items())
            if path.startswith(inside)
        ]
        if not found:
            raise _Stop(404, "EntryNotFound", f"{folder} does not exist")
        return found

    def file(self, name: str, branch: str, file: str) -> Any:
        repo = self.repo(name)
        sha = self.revision(repo, branch)
        data = repo.commits[sha].get(file)
        if data is None:
            raise _Stop(404, "EntryNotFound", "Entry not found")
        return 200, data, {"ETag": f'"{oid(file, data)}"', "X-Repo-Commit": sha}


def oid(path: str, data: bytes) -> str:
    """What git, or git-lfs for large files, calls this content."""
    if path.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return _sha1(f"blob {len(data)}\0".encode() + data)


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


class _Nothing:
    closed = True

    def close(self) -> None:
        pass

    def flush(self) -> None:
        pass
