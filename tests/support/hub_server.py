"""A server that answers as the Hugging Face Hub does where files are fetched: `/OWNER/NAME/resolve/REVISION/FILE`."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class HubServer:
    """Repositories by name, each with the files of its revisions."""

    url: str = ""
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """OWNER/NAME -> commit -> file -> content; `main` is the last commit."""
    fetched: list[str] = field(default_factory=list)
    """Paths of the files whose content was sent."""

    def find(self, path: str) -> tuple[str, bytes] | str:
        """The commit and the content at `path`, or the hub's code for what is missing."""
        repository, _, rest = path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        commits = self.repositories.get(repository)
        if commits is None:
            return "RepoNotFound"
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            return "RevisionNotFound"
        return (commit, commits[commit][name]) if name in commits[commit] else "EntryNotFound"


@contextlib.contextmanager
def hub_server() -> Iterator[HubServer]:
    """A running server on 127.0.0.1, until the end of the block."""
    hub = HubServer()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_content=False)

        def do_GET(self) -> None:
            self._answer(with_content=True)

        def _answer(self, with_content: bool) -> None:
            found = hub.find(self.path)
            if isinstance(found, str):
                self.send_response(404)
                self.send_header("X-Error-Code", found)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            commit, content = found
            self.send_response(200)
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_content:
                hub.fetched.append(self.path)
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """The tests' output stays clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
