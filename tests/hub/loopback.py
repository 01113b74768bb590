"""A Hub on this machine: the HTTP that ``huggingface_hub`` speaks for repositories of models, with faults on order."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
LARGE = (".safetensors", ".bin")  # kept as large files; the rest is kept in git
SIGNATURE = "X-Amz-Signature=verysecret"  # as addresses of uploads carry on the real Hub


@dataclass(frozen=True)
class Blob:
    data: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        """Of the file in git: its own hash, or that of the pointer to a large one."""
        data = f"oid sha256:{self.sha256} size {len(self.data)}".encode() if self.large else self.data
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "file", "path": path, "size": len(self.data), "oid": self.oid}
        if self.large:
            found["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": 130}
        return found


@dataclass
class Repo:
    private: bool
    commits: list[dict[str, Blob]] = field(default_factory=lambda: [{".gitattributes": Blob(b"* -text\n", False)}])

    @property
    def head(self) -> str:
        return self.sha(len(self.commits) - 1)

    def sha(self, number: int) -> str:
        listed = repr([sorted((path, blob.sha256) for path, blob in files.items())
                       for files in self.commits[: number + 1]])
        return hashlib.sha1(listed.encode()).hexdigest()

    def at(self, revision: str) -> tuple[str, dict[str, Blob]] | None:
        shas = [self.sha(number) for number in range(len(self.commits))]
        if revision == "main":
            return shas[-1], self.commits[-1]
        return next(((sha, files) for sha, files in zip(shas, self.commits, strict=True) if sha == revision), None)


@dataclass
class Fault:
    """What goes wrong with requests that match, so many times."""

    method: str
    path: str
    status: int = 0
    """Answered instead; 0 for the others."""
    cut: bool = False
    """The connection ends in the middle of the answer."""
    wrong: bool = False
    """One byte of the answer is another."""
    left: int = 10**6


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def told(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def refused(status: int, code: str = "", message: str = "no") -> Answer:
    answer = told({"error": message}, status)
    answer.headers["X-Error-Message"] = message
    return Answer(status, answer.body, {**answer.headers, **({"X-Error-Code": code} if code else {})})


class Hub:
    """The state of the server. ``tokens`` holds users by token; everybody may read what is public."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.tokens: dict[str, str] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str]] = []
        self.url = ""
        self.store = ""  # of large files: another host, to which no token goes
        self.blind = False  # tokens may write, but read nothing private
        self.page = 1000  # entries of a tree in one answer

    def fail(self, method: str, path: str, **how: Any) -> Fault:
        self.faults.append(Fault(method, path, **how))
        return self.faults[-1]

    def count(self, method: str, path: str) -> int:
        return sum(m == method and re.search(path, p) is not None for m, p in self.seen)

    def files(self, repo: str) -> dict[str, bytes]:
        return {path: blob.data for path, blob in self.repos[repo].commits[-1].items()}

    def put(self, repo: str, files: dict[str, bytes | None], private: bool = False) -> None:
        """A commit made elsewhere."""
        found = self.repos.setdefault(repo, Repo(private))
        after = dict(found.commits[-1])
        for path, data in files.items():
            if data is None:
                del after[path]
            else:
                after[path] = Blob(data, path.endswith(LARGE))
        found.commits.append(after)

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> Answer:
        url = urlsplit(target)
        path = unquote(url.path)
        user = self.tokens.get((headers.get("Authorization") or "").removeprefix("Bearer "))
        if headers.get("Authorization") and user is None:
            return refused(401, message="Invalid credentials in Authorization header")
        for (wanted, pattern), make in ROUTES.items():
            match = re.fullmatch(pattern, path)
            if match and method in wanted:
                repo = self.repos.get(match.groupdict().get("repo", ""))
                hidden = repo is not None and repo.private and (user is None or self.blind)
                if "repo" in match.groupdict() and (repo is None or hidden):
                    return refused(404 if user else 401, "RepoNotFound", "Repository not found")
                return make(self, Call(match, repo, user, parse_qs(url.query), body))
        return refused(404, message=f"{method} {path} is no address of this Hub")


@dataclass
class Call:
    match: re.Match[str]
    repo: Any  # a Repo wherever the address names one
    user: str | None
    query: dict[str, list[str]]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


ROUTES: dict[tuple[tuple[str, ...], str], Callable[[Hub, Call], Answer]] = {}


def route(methods: str, pattern: str) -> Callable:
    def add(make: Callable[[Hub, Call], Answer]) -> Callable:
        ROUTES[tuple(methods.split()), pattern] = make
        return make

    return add


@route("GET", "/api/whoami-v2")
def whoami(hub: Hub, call: Call) -> Answer:
    return told({"name": call.user, "type": "user", "orgs": []}) if call.user else refused(401)


@route("POST", "/api/repos/create")
def create(hub: Hub, call: Call) -> Answer:
    name = f"{call.json['organization'] or call.user}/{call.json['name']}"
    if call.user is None or not name.startswith(f"{call.user}/"):
        return refused(403 if call.user else 401, message="you may not create a repository there")
    if name in hub.repos:
        return told({"error": "You already created this model repo", "url": f"{hub.url}/{name}"}, 409)
    hub.repos[name] = Repo(call.json.get("visibility") == "private")
    return told({"url": f"{hub.url}/{name}"})


@route("GET", rf"/api/models/{REPO}(/revision/(?P<revision>.+))?")
def info(hub: Hub, call: Call) -> Answer:
    found = call.repo.at(call.match["revision"] or "main")
    if found is None:
        return refused(404, "RevisionNotFound", "Invalid rev id")
    siblings = [{"rfilename": path} for path in found[1]]
    return told({"_id": "1", "id": call.match["repo"], "sha": found[0], "private": call.repo.private,
                 "siblings": siblings, "tags": []})


@route("PUT", rf"/api/models/{REPO}/settings")
def settings(hub: Hub, call: Call) -> Answer:
    call.repo.private = call.json["visibility"] == "private"
    return told({})


@route("GET", rf"/api/models/{REPO}/tree/(?P<revision>[^/]+)")
def tree(hub: Hub, call: Call) -> Answer:
    found = call.repo.at(call.match["revision"])
    if found is None:
        return refused(404, "RevisionNotFound", "Invalid rev id")
    entries = [blob.entry(path) for path, blob in sorted(found[1].items())]
    first = int(call.query.get("cursor", ["0"])[0])
    answer = told(entries[first : first + hub.page])
    if first + hub.page < len(entries):
        here = f"{hub.url}/api/models/{call.match['repo']}/tree/{found[0]}"
        answer.headers["Link"] = f'<{here}?recursive=True&cursor={first + hub.page}>; rel="next"'
    return answer


@route("POST", "/api/validate-yaml")
def validate(hub: Hub, call: Call) -> Answer:
    import yaml

    front = re.match(r"---\n(.*?)\n---\n", call.json["content"], re.DOTALL)
    if front is None or not isinstance(yaml.safe_load(front[1]), dict):
        return told({"errors": [{"message": "no metadata"}], "warnings": []}, 400)
    if yaml.safe_load(front[1]).get("license") not in ("apache-2.0", "mit", "other"):
        return told({"errors": [{"message": '"license" must be one of [apache-2.0, mit, other]'}], "warnings": []}, 400)
    return told({"errors": [], "warnings": []})


@route("POST", rf"/api/models/{REPO}/preupload/(?P<revision>.+)")
def preupload(hub: Hub, call: Call) -> Answer:
    there = call.repo.commits[-1]
    files = []
    for file in call.json["files"]:
        blob = there.get(file["path"])
        oid = None if blob is None else blob.sha256 if blob.large else blob.oid
        mode = "lfs" if file["path"].endswith(LARGE) else "regular"
        files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return told({"files": files})


@route("POST", rf"/{REPO}\.git/info/lfs/objects/batch")
def batch(hub: Hub, call: Call) -> Answer:
    objects: list[dict[str, Any]] = []
    for wanted in call.json["objects"]:
        there = wanted["oid"] in hub.objects
        href = f"{hub.store}/_objects/{wanted['oid']}?{SIGNATURE}"
        objects.append({**wanted, **({} if there else {"actions": {"upload": {"href": href, "header": {}}}})})
    return told({"transfer": "basic", "objects": objects})


@route("PUT", "/_objects/(?P<oid>[0-9a-f]{64})")
def upload(hub: Hub, call: Call) -> Answer:
    if hashlib.sha256(call.body).hexdigest() != call.match["oid"]:
        return refused(400, message="the bytes are not those of the hash")
    hub.objects[call.match["oid"]] = call.body
    return Answer()


@route("POST", rf"/api/models/{REPO}/commit/(?P<revision>.+)")
def commit(hub: Hub, call: Call) -> Answer:
    if call.user is None:
        return refused(401)
    if not call.match["repo"].startswith(f"{call.user}/"):
        return refused(403, message="you may not write there")
    lines = [json.loads(line) for line in call.body.decode().splitlines()]
    if lines[0]["value"].get("parentCommit") not in (None, call.repo.head):
        return refused(412, message="A commit has happened since. Please refresh and try again.")
    files = dict(call.repo.commits[-1])
    for line in lines[1:]:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
        elif line["key"] == "lfsFile":
            if value["oid"] not in hub.objects:
                return refused(400, message=f"{value['path']} was not uploaded")
            files[value["path"]] = Blob(hub.objects[value["oid"]], True)
        elif line["key"] == "deletedFile":
            del files[value["path"]]
        else:
            return refused(400, message=f"this Hub knows no {line['key']}")
    call.repo.commits.append(files)
    head = call.repo.head
    return told({"commitUrl": f"{hub.url}/{call.match['repo']}/commit/{head}", "commitOid": head})


@route("GET HEAD", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(hub: Hub, call: Call) -> Answer:
    found = call.repo.at(call.match["revision"])
    if found is None:
        return refused(404, "RevisionNotFound", "Invalid rev id")
    sha, files = found
    blob = files.get(call.match["path"])
    if blob is None:
        return Answer(404, b"Entry not found", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
    headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.oid}"'}
    if not blob.large:
        return Answer(200, blob.data, headers)
    hub.objects[blob.sha256] = blob.data
    return Answer(302, b"", {**headers, "X-Linked-Size": str(len(blob.data)), "X-Linked-ETag": f'"{blob.sha256}"',
                             "Location": f"{hub.store}/_objects/{blob.sha256}?{SIGNATURE}"})


@route("GET HEAD", "/_objects/(?P<oid>[0-9a-f]{64})")
def download(hub: Hub, call: Call) -> Answer:
    return Answer(200, hub.objects[call.match["oid"]], {"ETag": f'"{call.match["oid"]}"'})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Nothing: tests read ``Hub.seen``."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub = self.hub
        hub.seen.append((self.command, self.path))
        assert not (self.headers["Host"].startswith("localhost") and self.headers["Authorization"]), "a token got out"
        fault = next((f for f in hub.faults if f.left and f.method == self.command and re.search(f.path, self.path)),
                     None)
        if fault is not None:
            fault.left -= 1
        if fault is not None and fault.status:
            answer = refused(fault.status, message=f"on order {self.headers.get('Authorization')}")
        else:
            answer = hub.answer(self.command, self.path, self.headers, body)
        self._send(answer, fault)

    def _send(self, answer: Answer, fault: Fault | None) -> None:
        body = answer.body
        if fault is not None and fault.wrong:
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is not None and fault.cut:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = _serve


@contextmanager
def serving() -> Iterator[Hub]:
    """A running Hub."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url, hub.store = (f"http://{host}:{server.server_port}" for host in ("127.0.0.1", "localhost"))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
