"""Many raw connections that read server-sent events as cheaply as Python can: they count frames.

Only the standard library: peers are measured with it too.
"""

import re
import select
import socket
import time
from collections.abc import Callable

TOKEN = b"\nevent: token\n"
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
READ_BYTES = 256 * 1024
_BUFFER = memoryview(bytearray(READ_BYTES))
# A guard: nothing here takes so long.
QUIET_S_MAX = 60.0


def receive(line: socket.socket) -> bytes:
    """What has come, at most `READ_BYTES`. Read into one buffer: memory of that size, asked for anew by
    each read, costs several times what the read of a frame does.
    """
    return bytes(_BUFFER[: line.recv_into(_BUFFER)])


class Connection:
    """One subscriber's socket."""

    def __init__(self, port: int, path: str, *, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(
            b"GET %b HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: text/event-stream\r\n\r\n"
            % path.encode()
        )
        self.frames = 0
        self.rest = b""
        self.kept: list[bytes] | None = None

    def take(self, data: bytes) -> int:
        """How many frames came. A mark that two reads share is counted with the second one."""
        if self.kept is not None:
            self.kept.append(data)
        data = self.rest + data
        # Shorter than the mark, so that none is counted twice.
        self.rest = data[-(len(TOKEN) - 1) :]
        count = data.count(TOKEN)
        self.frames += count
        return count

    def seqs(self) -> list[int]:
        """The seqs of all tokens, of a connection whose bytes were kept."""
        text = b"".join(self.kept or [])
        # Chunk sizes are lines of their own, between frames or inside of one.
        text = re.sub(rb"\r\n[0-9a-f]+\r\n", b"", text)
        return [
            int(found[1]) for found in re.finditer(rb"id: [a-z0-9]+\.(\d+)\nevent: token\n", text)
        ]


class Crowd:
    """Connections, read in this thread."""

    def __init__(self, port: int, path: str, count: int) -> None:
        self._epoll = select.epoll()
        self.by_fd: dict[int, Connection] = {}
        for _ in range(count):
            self.add(Connection(port, path))

    def add(self, connection: Connection) -> None:
        connection.socket.setblocking(False)
        self.by_fd[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket.fileno(), select.EPOLLIN)

    def wait_for_streams(self) -> None:
        """Until each has something: then it is subscribed."""
        missing = set(self.by_fd)
        deadline = time.monotonic() + QUIET_S_MAX
        while missing:
            if time.monotonic() > deadline:
                raise SystemExit(f"{len(missing)} connections got no stream")
            for fd, _ in self._epoll.poll(1.0):
                self.by_fd[fd].take(self._read(fd))
                missing.discard(fd)

    def read(self, count: int, between: Callable[[], None] | None = None) -> None:
        """Until `count` more frames have come. `between` is called again and again."""
        deadline = time.monotonic() + QUIET_S_MAX
        while count > 0:
            ready = self._epoll.poll(0 if between else 1.0)
            if between:
                between()
            for fd, _ in ready:
                count -= self.by_fd[fd].take(self._read(fd))
            if time.monotonic() > deadline:
                raise SystemExit(f"{count} frames did not come")

    def _read(self, fd: int) -> bytes:
        data = receive(self.by_fd[fd].socket)
        if not data:
            raise SystemExit("the server hung up")
        return data

    def close(self) -> None:
        for connection in self.by_fd.values():
            connection.socket.close()
        self._epoll.close()


class Publisher:
    """Appends events to one run, on one connection that is kept: the next batch when one is answered."""

    def __init__(self, port: int, run_id: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = port
        self.run_id = run_id
        self._answer = b""
        self._request(b"PUT", f"/v1/runs/{run_id}", b'{"workflow":"w"}')
        self.take_answer()

    def send(self, count: int) -> None:
        """A batch. Its answer must be taken before the next one."""
        event = '{"kind":"token","data":{"text":"%s"},"correlation_id":"gen-42"}' % ("x" * 60)
        body = f'{{"events":[{",".join([event] * count)}]}}'
        self._request(b"POST", f"/v1/runs/{self.run_id}/events", body.encode())

    def take_answer(self, *, wait: bool = True) -> bool:
        """Whether it is there."""
        while True:
            head, end, body = self._answer.partition(b"\r\n\r\n")
            length = _LENGTH.search(head)
            if end and (length is None or len(body) >= int(length[1])):
                break
            try:
                self._answer += self.socket.recv(65536, 0 if wait else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
        if not head.startswith(b"HTTP/1.1 20"):
            raise SystemExit(f"the server answered {self._answer!r}")
        self._answer = b""
        return True

    def _request(self, method: bytes, path: str, body: bytes) -> None:
        self.socket.sendall(
            b"%b %b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (method, path.encode(), self.port, len(body), body)
        )


def fan_out(publisher: Publisher, crowd: Crowd, batches: int, size: int, readers: int) -> float:
    """Frames per second that `readers` of the crowd get, while batches of `size` come as fast as they are
    taken.
    """
    sent = 1

    def send_next() -> None:
        nonlocal sent
        if sent < batches and publisher.take_answer(wait=False):
            publisher.send(size)
            sent += 1

    frames = batches * size * readers
    began = time.perf_counter()
    publisher.send(size)
    crowd.read(frames, send_next)
    took = time.perf_counter() - began
    publisher.take_answer()
    return frames / took
