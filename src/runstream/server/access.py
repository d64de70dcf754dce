"""Who may do what: the contract between the routes and whatever tells callers apart."""

from __future__ import annotations

from typing import Literal, Protocol

from starlette.types import Scope

Permission = Literal["runs:read", "runs:write", "runs:start", "admin"]


class Principal(Protocol):
    """A caller whom the server knows."""

    @property
    def expires(self) -> float | None:
        """When its token expires (seconds since 1970), or None."""
        ...

    def require(self, permission: Permission, run_id: str | None = None) -> None:
        """Raise Forbidden unless it may do this, with this run (None: with runs at large).

        Whether a run exists must not show to those who may not read it: ask before looking it up, of
        the id in the address.
        """
        ...

    def allows(self, permission: Permission, run_id: str) -> bool:
        """As `require`, for filtering lists."""
        ...

    def still_valid(self) -> bool:
        """Whether the token would be accepted now; asked again during long streams."""
        ...


class Access(Protocol):
    """Finds the principal of a request."""

    def identify(self, scope: Scope) -> Principal:
        """Raises Unauthorized: no token, or one that is wrong or expired."""
        ...


class Everyone:
    """The principal of a server without auth: may do everything. Loopback only."""

    expires: float | None = None

    def require(self, permission: Permission, run_id: str | None = None) -> None:
        """Never raises."""

    def allows(self, permission: Permission, run_id: str) -> bool:  # noqa: ARG002 - the contract's
        return True

    def still_valid(self) -> bool:
        return True


class OpenAccess:
    """Auth switched off: everyone may do everything. For loopback only."""

    def identify(self, scope: Scope) -> Principal:  # noqa: ARG002 - the contract's
        return Everyone()
