"""The part of the Hugging Face hub's HTTP interface that sharing a policy uses, as a server on this machine.

Models live in memory, each with branches, each of them a list of commits. What is private, and all that is
written, needs the token. No answer of a real hub was recorded: these follow what its client reads of them.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_secret"
Files = dict[str, bytes]
MODEL = r"/api/models/(?P<repo>[^/]+/[^/]+)"


class Repository:
    """A model: branch -> (commit, files)."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.branches: dict[str, tuple[str, Files]] = {}
        self.commits: dict[str, Files] = {}
        self.commit("main", {}, "begin")

    def commit(self, branch: str, files: Files, message: str) -> str:
        kept = self.branches.get(branch, self.branches.get("main", ("", {})))[1] | files
        digest = hashlib.sha1(f"{branch}{len(self.commits)}{message}".encode()).hexdigest()
        self.branches[branch], self.commits[digest] = (digest, kept), kept
        return digest

    def find(self, revision: str) -> tuple[str, Files] | None:
        if revision in self.commits:
            return revision, self.commits[revision]
        return self.branches.get(revision)


class Hub(ThreadingHTTPServer):
    """A hub on a free port of this machine.

    Attributes:
        models: ``user/name`` -> model.
        requests: Method and path of each request.
        messages: Of the commits.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.models: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.messages: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @contextmanager
    def serving(self) -> Iterator["Hub"]:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()


class Refused(Exception):
    """An answer that is none of success: its status and the hub's word for it."""

    def __init__(self, status: int, code: str = "", message: str = "", content: Any = None) -> None:
        self.status, self.code, self.message = status, code, message
        self.content = {"error": message} if content is None else content


class Answer(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_GET

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(f"{self.command} {self.path}")
        try:
            status, headers, content = self._find(urlsplit(self.path), body)
        except Refused as refused:
            status, content = refused.status, json.dumps(refused.content).encode()
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _find(self, url: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        path = url.path
        if path == "/api/repos/create":
            return self._json(self._create(json.loads(body)))
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if match := re.fullmatch(MODEL + r"/branch/(?P<branch>[^/]+)", path):
            return self._json(self._branch(match["repo"], unquote(match["branch"])))
        if match := re.fullmatch(MODEL + r"/preupload/(?P<revision>[^/]+)", path):
            self._writable(match["repo"])
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        if match := re.fullmatch(MODEL + r"/commit/(?P<revision>[^/]+)", path):
            return self._json(self._commit(match["repo"], unquote(match["revision"]), body))
        if match := re.fullmatch(MODEL + r"(/revision/(?P<revision>[^/]+))?", path):
            return self._json(self._described(match["repo"], unquote(match["revision"] or "main")))
        if match := re.fullmatch(MODEL + r"/tree/(?P<revision>[^/]+)", path):
            _, files = self._read(match["repo"], unquote(match["revision"]))
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": oid(content)}
                for name, content in sorted(files.items())
            ]
            return self._json([] if "cursor" in parse_qs(url.query) else tree)
        if match := re.fullmatch(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", path):
            commit, files = self._read(match["repo"], unquote(match["revision"]))
            if match["file"] not in files:
                raise Refused(404, "EntryNotFound")
            content = files[match["file"]]
            return 200, {"X-Repo-Commit": commit, "ETag": f'"{oid(content)}"'}, content
        raise Refused(404)

    def _json(self, value: Any) -> tuple[int, dict[str, str], bytes]:
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()

    @property
    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _create(self, wanted: dict[str, Any]) -> Any:
        if not self._known:
            raise Refused(401, message="Invalid username or password.")
        name = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] != "user":
            raise Refused(403, message=f"You don't have the rights to create a model under {name}")
        if name in self.server.models:
            # The client reads the address of this answer, too.
            raise Refused(409, message="You already created this model repo", content=self._url(name))
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.server.models[name] = Repository(private)
        return self._url(name)

    def _url(self, name: str) -> Any:
        return {"url": f"{self.server.address}/{name}", "name": name, "id": name}

    def _branch(self, repo: str, branch: str) -> Any:
        model = self._writable(repo)
        if branch in model.branches:
            raise Refused(409, message="Reference already exists")
        model.commit(branch, {}, "branch")
        return {}

    def _commit(self, repo: str, branch: str, body: bytes) -> Any:
        files, message = {}, ""
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "header":
                message = line["value"]["summary"]
            else:
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        digest = self._writable(repo).commit(branch, files, message)
        self.server.messages.append(message)
        return {"commitUrl": f"{self.server.address}/{repo}/commit/{digest}", "commitOid": digest}

    def _described(self, repo: str, revision: str) -> Any:
        commit, files = self._read(repo, revision)
        return {"id": repo, "modelId": repo, "sha": commit, "siblings": [{"rfilename": f} for f in files]}

    def _writable(self, repo: str) -> Repository:
        if not self._known:
            raise Refused(401, message="Invalid username or password.")
        if repo not in self.server.models:
            raise Refused(404, "RepoNotFound")
        return self.server.models[repo]

    def _read(self, repo: str, revision: str) -> tuple[str, Files]:
        model = self.server.models.get(repo)
        # As the hub does it: whoever may not see a model is told what one is told who asks for none.
        if model is None or (model.private and not self._known):
            raise Refused(404 if self._known else 401, "RepoNotFound", "Invalid username or password.")
        found = model.find(revision)
        if found is None:
            raise Refused(404, "RevisionNotFound")
        return found


def oid(content: bytes) -> str:
    """What git calls a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
