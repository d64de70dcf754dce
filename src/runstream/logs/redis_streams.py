"""Calls of scripts on one stream: where it is, and what the answers mean."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..admission import new_generation, no_such_run
from ..log import RunInfo
from ..record import now_us
from .redis_keys import Keys, Place, fields_of, known_run_id, run_info
from .redis_line import Command
from .redis_nodes import Nodes, Use
from .redis_scripts import Script
from .redis_server import Server

# Children whose root this process remembers (some hundred bytes each).
ROOTS_MAX: Final = 10_000
# A pointer that changes while it is followed: a child that was removed, and opened again elsewhere.
HOPS_MAX: Final = 4


def new_token() -> str:
    """Tells a call that is repeated after a lost reply from a new one."""
    return secrets.token_hex(8)


class Streams:
    """Scripts run where the run's root is. All in one event loop, but for `root_of`."""

    def __init__(self, nodes: Nodes, keys: Keys) -> None:
        self.nodes = nodes
        self.keys = keys
        self._roots: OrderedDict[str, str] = OrderedDict()

    def root_of(self, run_id: str) -> str:
        """Where the run's stream is, as far as this process knows. Any thread."""
        return self._roots.get(run_id, run_id)

    def learn(self, run_id: str, root: str) -> None:
        self._roots[run_id] = root
        if len(self._roots) > ROOTS_MAX:
            self._roots.popitem(last=False)

    async def call(
        self,
        script: Script,
        run_id: str,
        args_of: Callable[[str], Sequence[Any]],
        *,
        use: Use = "write",
        token: str | None = None,
    ) -> tuple[str, list[Any]]:
        """The root's run id, and the script's answer. `args_of` makes the arguments for a root; the
        `token` tells a call from its repetition, for a script that remembers it.

        Raises:
            RunNotFound: no such run.
        """
        known_run_id(run_id)
        for _ in range(HOPS_MAX):
            root = self.root_of(run_id)
            answer = await self.call_at(root, script, run_id, *args_of(root), use=use, token=token)
            if answer[0] == b"at":
                self.learn(run_id, Place.parse(answer[1]).root)
                if self.root_of(run_id) == root:
                    break  # it points at itself: nothing of ours
            elif answer[0] != b"none":
                return root, answer
            elif root == run_id:
                break
            else:
                # Removed, or not quite opened; look at its pointer once more, if there is one.
                self._roots.pop(run_id, None)
                place = await self.place(run_id)
                if place is None or place.root == root:
                    break
        raise no_such_run(run_id)

    async def call_at(
        self,
        root: str,
        script: Script,
        run_id: str,
        *args: Any,
        use: Use = "write",
        token: str | None = None,
    ) -> list[Any]:
        """The script's answer from the stream of that root."""
        keys = self.keys.stream(root)
        if token is not None:
            keys = (*keys, self.keys.once(root, token))
        # A repeated call must carry the same time and the same new generation.
        same = (new_generation(), run_id, root, now_us(), self.keys.channel(root), *args)

        def make(server: Server, until: int) -> Command:
            trusted = "1" if server.is_trusted else ""
            return "EVALSHA", script.sha, len(keys), *keys, server.boot, trusted, until, *same

        answer: list[Any] = await self.nodes.call(keys[0], make, use)
        return answer

    async def run_script(self, script: Script, keys: Sequence[str], *args: Any) -> list[Any]:
        """The answer of a script that is not about one stream."""
        answer: list[Any] = await self.nodes.command(
            "EVALSHA", script.sha, len(keys), *keys, *args, key=keys[0], use="write"
        )
        return answer

    async def place(self, run_id: str) -> Place | None:
        """Where a child was opened; None if it is no child."""
        pointer = self.keys.pointer(run_id)
        found: bytes | None = await self.nodes.command("GET", pointer, key=pointer)
        return None if found is None else Place.parse(found)

    async def find(self, run_id: str) -> RunInfo | None:
        """What is known of a run; None if there is none."""
        for _ in range(HOPS_MAX):
            root = self.root_of(run_id)
            info = await self.find_at(root, run_id)
            if info is not None:
                return info
            self._roots.pop(run_id, None)
            place = await self.place(run_id)
            if place is None or place.root == root:
                return None
            self.learn(run_id, place.root)
        return None

    async def find_at(self, root: str, run_id: str) -> RunInfo | None:
        """As `find`, of a run whose root is known."""
        key = self.keys.run(root)
        fields = await self.nodes.command("HMGET", key, *fields_of(run_id), key=key)
        return None if fields[0] is None or fields[3] is None else run_info(run_id, root, fields)

    async def get(self, run_id: str) -> RunInfo:
        """Raises RunNotFound."""
        info = await self.find(known_run_id(run_id))
        if info is None:
            raise no_such_run(run_id)
        return info
