"""A local HTTP server that speaks as much of the OpenAI API as chat completions need."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Gets the body of a request; returns a status and what is sent: JSON, or bytes as they are.
Answer = Callable[[dict[str, Any]], tuple[int, Any]]


def completion(text: str | None, *, end: str = "stop") -> tuple[int, Any]:
    """Return the answer of a server that has this text."""
    message = {"role": "assistant", "content": text}
    return 200, {"choices": [{"index": 0, "message": message, "finish_reason": end}]}


class ChatServer(ThreadingHTTPServer):
    """Answers as it is told; ``seen`` has the path, the key and the body of each request."""

    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.seen: list[tuple[str, str | None, dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers.get("Authorization"), body))
        status, sent = self.server.answer(body)
        data = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def chat_server(answer: Answer) -> Iterator[ChatServer]:
    """Serve in a thread."""
    with ChatServer(answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
