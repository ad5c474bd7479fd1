"""Serves an explorer to the user who asked for it, and to nobody else on the machine.

The loopback address is open to every user of a machine, so that each request must bring a random
token, the first part of its path. A page of another site can give its own name the address of this
machine; such a request comes under another host name and is refused, too.
"""

from __future__ import annotations

import secrets
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    "connect-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'"
)
"""Content-Security-Policy: nothing is loaded from elsewhere. The page itself has the same one."""

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
"""Host names that a request may use."""


class Server(ThreadingHTTPServer):
    """Server of one explorer, a folder that `explore` wrote, on the loopback address.

    ``serve_forever`` runs it. Its ``address`` is what to open in a browser: who does not know it is
    refused. Port 0 is any free one.

    Raises:
        OSError: If the port is taken, or may not be opened.
    """

    def __init__(self, folder: str | Path, port: int = 0) -> None:
        files = {
            file.relative_to(folder).as_posix(): file
            for file in Path(folder).rglob("*")
            if file.is_file() and not file.is_symlink()
        }
        token = secrets.token_urlsafe(16)
        try:
            super().__init__((HOST, port), partial(_Handler, files, token))
        except OSError as error:
            message = f"port {port} cannot be opened: {error.strerror}; choose another one, or none"
            raise OSError(error.errno, message) from None
        self.address = f"http://{HOST}:{self.server_port}/{token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a browser that leaves the page, or sleeps, while a file is sent."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(SimpleHTTPRequestHandler):
    """Answers with a file of the explorer, or refuses."""

    protocol_version = "HTTP/1.1"
    timeout = 60  # of an idle connection, in seconds
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm",
        ".onnx": "application/octet-stream", ".txt": "text/plain; charset=utf-8",
    }  # fmt: skip

    def __init__(self, files: dict[str, Path], token: str, *connection: Any) -> None:
        self.files, self.token = files, token
        super().__init__(*connection)

    def send_head(self) -> BinaryIO | None:
        name = self.headers.get("Host", "").partition(":")[0]
        path = unquote(self.path.partition("?")[0].partition("#")[0])
        token, slash, wanted = path.removeprefix("/").partition("/")
        known = secrets.compare_digest(token.encode(), self.token.encode())
        if name not in NAMES or not (known and slash):
            self.send_error(HTTPStatus.FORBIDDEN, "open the whole address that explore printed")
        elif (wanted or "index.html") not in self.files:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self.path = wanted or "index.html"
            return super().send_head()
        return None

    def translate_path(self, path: str) -> str:
        return str(self.files[path])

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", f"{POLICY}; frame-ancestors 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass
