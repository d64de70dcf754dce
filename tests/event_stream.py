"""A stream of a server, read without our own client: frames by the words of the standard, lines as JSON."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from server_process import ServerProcess

# A guard against hanging; a frame takes milliseconds.
FRAME_S_MAX = 90.0

CONTROLS = {":", "stream.cursor", "stream.end", "stream.error", "stream.gap"}


@dataclass(frozen=True)
class Frame:
    """One block of a stream. A comment has the kind ``:``; `data` is decoded."""

    kind: str
    id: str = ""
    data: Any = None
    retry: str = ""

    @property
    def seq(self) -> int:
        return int(self.id.partition(".")[2])


class EventStream:
    """One request for the events of a run. `with` closes the connection."""

    def __init__(
        self,
        server: ServerProcess,
        run_id: str,
        query: str = "",
        *,
        last_event_id: str | None = None,
        accept: str = "text/event-stream",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=FRAME_S_MAX)
        sent = {"accept": accept, **(headers or {})}
        if last_event_id is not None:
            sent["last-event-id"] = last_event_id
        self._line.request("GET", f"/v1/runs/{run_id}/events?{query}", headers=sent)
        self._answer = self._line.getresponse()
        self.status = self._answer.status
        self.headers = {name.lower(): value for name, value in self._answer.getheaders()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._answer.close()
        self._line.close()

    def next(self) -> Frame | None:
        """The next block of a stream of events; None at its end."""
        fields: dict[str, str] = {}
        while line := self._answer.readline():
            name, _, value = line.decode().rstrip("\n").partition(":")
            if line == b"\n":
                data = fields.get("data")
                return Frame(
                    fields.get("event", ":" if "" in fields else "message"),
                    fields.get("id", ""),
                    None if data is None else json.loads(data),
                    fields.get("retry", ""),
                )
            fields[name] = value.removeprefix(" ")
        assert not fields, f"cut off: {fields}"
        return None

    def until(self, kind: str) -> list[Frame]:
        """All blocks up to the first of this kind, which is the last one."""
        frames: list[Frame] = []
        while not frames or frames[-1].kind != kind:
            frame = self.next()
            assert frame is not None, f"no {kind} after {frames}"
            frames.append(frame)
        return frames

    def rest(self) -> list[Frame]:
        """All blocks up to the end of the stream."""
        frames: list[Frame] = []
        while (frame := self.next()) is not None:
            frames.append(frame)
        return frames

    def next_line(self) -> Any:
        """The next line of a stream of lines; None at its end."""
        line = self._answer.readline()
        return json.loads(line) if line else None

    def body(self) -> bytes:
        """What is left."""
        return self._answer.read()


def records(frames: list[Frame]) -> list[Frame]:
    """Those that are records."""
    return [frame for frame in frames if frame.kind not in CONTROLS]


def seqs(frames: list[Frame]) -> list[int]:
    return [frame.seq for frame in records(frames)]


def open_run(server: ServerProcess, run_id: str, **more: Any) -> None:
    assert server.call("PUT", f"/v1/runs/{run_id}", {"workflow": "w", **more}).status == 201


def append(
    server: ServerProcess, run_id: str, *events: dict[str, Any], final: bool = False
) -> None:
    body = {"events": events, "final": final}
    answer = server.call("POST", f"/v1/runs/{run_id}/events", body)
    assert answer.status == 200, answer


def tokens(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"kind": "token", "data": {"text": f"{n} "}, **more} for n in range(count)]


COMPLETED = {"kind": "run.completed", "data": {"result": None}}
