"""A server that is no engine, or says of itself what no engine of these tests would."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Callable, Generator


@contextlib.contextmanager
def impostor(answer: Callable[[bytes], bytes], *, greeting: bytes = b"") -> Generator[int]:
    """Its port; it greets whoever connects, and answers what it hears as told. It runs in threads: who
    opens a log blocks.
    """

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                self.request.sendall(greeting)
                while heard := self.request.recv(65536):
                    self.request.sendall(answer(heard))

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
