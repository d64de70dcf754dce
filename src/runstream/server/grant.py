"""What a token grants: permissions, narrowed to runs, until it expires."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..errors import Forbidden, InvalidInput
from ..record import check_run_id
from .access import Permission


@dataclass(frozen=True, slots=True)
class RunPatterns:
    """Some of the runs: by id, or by the beginning of it."""

    ids: frozenset[str]
    prefixes: tuple[str, ...]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> RunPatterns:
        """`nightly` is that run; `team-a-*` are all whose id begins so; `*` are all.

        Raises InvalidInput for anything else.
        """
        ids: set[str] = set()
        prefixes: list[str] = []
        for text in texts:
            prefix = text.removesuffix("*")
            if prefix:
                check_run_id(prefix)
            elif not text:
                raise InvalidInput("a run pattern is a run id, or its beginning and a *; not empty")
            if prefix == text:
                ids.add(text)
            else:
                prefixes.append(prefix)
        return cls(frozenset(ids), tuple(prefixes))

    def match(self, run_id: str) -> bool:
        return run_id in self.ids or run_id.startswith(self.prefixes)

    def __str__(self) -> str:
        return ", ".join([*sorted(self.ids), *(f"{prefix}*" for prefix in self.prefixes)])


@dataclass(frozen=True, slots=True)
class Grant:
    """A `Principal` by its token. `runs` None: all of them; `admin` includes the other permissions.

    `recheck` says whether the token would still be accepted, apart from its time.
    """

    name: str
    permissions: frozenset[str]
    runs: RunPatterns | None
    expires: float | None
    recheck: Callable[[], bool] = field(repr=False)

    def require(self, permission: Permission, run_id: str | None = None) -> None:
        # The texts depend on the token and the request alone, never on what the log holds.
        if not self._has(permission):
            raise Forbidden(f"this token does not allow {permission}")
        if self.runs is None:
            return
        if run_id is None:
            if permission != "runs:read":
                raise Forbidden(
                    f"this token allows {permission} for some runs only: name one of them"
                )
        elif not self.runs.match(run_id):
            raise Forbidden(f"this token does not allow {permission} for that run")

    def allows(self, permission: Permission, run_id: str) -> bool:
        return self._has(permission) and (self.runs is None or self.runs.match(run_id))

    def still_valid(self) -> bool:
        return (self.expires is None or time.time() < self.expires) and self.recheck()

    def _has(self, permission: str) -> bool:
        return permission in self.permissions or "admin" in self.permissions
