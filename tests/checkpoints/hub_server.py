"""A server on 127.0.0.1 that speaks as much of the Hugging Face hub's API as its client needs."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest


@dataclass
class Repository:
    """Files by commit, and where branches and tags point."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: int | None = None  # the status of a refused file: 401 without a token, 403 with one
    sizes: dict[str, int] = field(default_factory=dict)  # sizes that the listing lies about

    def push(self, files: dict[str, bytes], ref: str = "main") -> str:
        """A commit of these files, which `ref` then points to."""
        digest = hashlib.sha1(repr(sorted(files.items())).encode(), usedforsecurity=False)
        self.commits[commit := digest.hexdigest()] = files
        self.refs[ref] = commit
        return commit


class Hub(ThreadingHTTPServer):
    """What is served, what was asked, and which answers are cut short."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.log: list[tuple[str, str, str | None]] = []  # method, path, range
        self.sent: dict[str, int] = {}  # bytes of the bodies of a file
        self.cuts: dict[str, list[int]] = {}  # file -> after how many bytes the next answers end
        self.ignores_ranges = False
        self.tokens: set[tuple[str, str | None]] = set()  # host, authorization

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def create(self, repo: str, folder: Path) -> Repository:
        """A repository with the files of a folder on main."""
        self.repositories[repo] = repository = Repository()
        repository.push({file.name: file.read_bytes() for file in folder.iterdir()})
        return repository

    def asked(self, name: str, method: str = "GET") -> list[str | None]:
        """The ranges that were asked of the files of this name."""
        return [r for m, path, r in self.log if m == method and path.endswith(f"/{name}")]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.log.append((self.command, path, self.headers["Range"]))
        host = (self.headers["Host"] or "").partition(":")[0]
        self.server.tokens.add((host, self.headers["Authorization"]))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            repo, what, revision = found.groups()
            self.api(repo, what or "revision", revision or "main")
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.file(*found.groups())
        elif found := re.fullmatch(r"/cdn/([^/]+/[^/]+)/([^/]+)/(.+)", path):
            repo, commit, name = found.groups()
            self.body(name, self.server.repositories[repo].commits[commit][name])
        else:
            self.refuse(404, None)

    def api(self, repo: str, what: str, revision: str) -> None:
        commit = self.commit_of(repo, revision)
        if commit is None:
            return
        repository = self.server.repositories[repo]
        files = repository.commits[commit]
        answer: object = {
            "id": repo,
            "sha": commit,
            "siblings": [{"rfilename": name} for name in files],
        }
        if what == "tree":
            answer = [
                {
                    "type": "file",
                    "path": name,
                    "size": repository.sizes.get(name, len(content)),
                    "oid": hashlib.sha1(content, usedforsecurity=False).hexdigest(),
                }
                for name, content in files.items()
            ]
        self.answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def file(self, repo: str, revision: str, name: str) -> None:
        commit = self.commit_of(repo, revision)
        if commit is None:
            return None
        repository = self.server.repositories[repo]
        if repository.gated is not None:
            return self.refuse(repository.gated, "GatedRepo")
        content = repository.commits[commit].get(name)
        if content is None:
            return self.refuse(404, "EntryNotFound")
        headers = {"X-Repo-Commit": commit}
        if not name.endswith(".safetensors"):
            headers["ETag"] = f'"{hashlib.sha1(content, usedforsecurity=False).hexdigest()}"'
            return self.answer(200, content, headers)
        # Large files lie on another host, under the hash of their content.
        headers |= {
            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"http://localhost:{self.server.server_address[1]}/cdn/{repo}/{commit}/{name}",
        }
        return self.answer(302, b"", headers)

    def body(self, name: str, content: bytes) -> None:
        headers: dict[str, str] = {}
        status, sent = 200, content
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        if asked and not self.server.ignores_ranges:
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            status, sent = 206, content[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        if self.command == "HEAD" or (asked and asked[2]) or not self.server.cuts.get(name):
            self.server.sent[name] = self.server.sent.get(name, 0) + len(sent)
            return self.answer(status, sent, headers)
        part = sent[: self.server.cuts[name].pop(0)]
        self.server.sent[name] = self.server.sent.get(name, 0) + len(part)
        self.answer(status, part, {**headers, "Content-Length": str(len(sent))})
        self.close_connection = True
        return None

    def commit_of(self, repo: str, revision: str) -> str | None:
        repository = self.server.repositories.get(repo)
        if repository is None:
            # The hub does not tell strangers what is missing and what is private.
            self.refuse(404 if self.headers["Authorization"] else 401, "RepoNotFound")
            return None
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            self.refuse(404, "RevisionNotFound")
            return None
        return commit

    def refuse(self, status: int, code: str | None) -> None:
        self.answer(status, b'{"error": "no"}', {"X-Error-Code": code} if code else {})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """A hub with no repositories yet, and huggingface_hub pointed at it with an empty cache."""
    from huggingface_hub import close_session, constants

    hub = Hub()
    Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    close_session()  # what was opened before knows other proxies
    try:
        yield hub
    finally:
        close_session()
        hub.shutdown()
        hub.server_close()
