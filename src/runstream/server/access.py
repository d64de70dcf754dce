"""Who may do what: the contract between the routes and whatever tells callers apart."""

from __future__ import annotations

from typing import Final, Literal, Protocol, cast, get_args

from starlette.types import Scope

from .run_tokens import RunTokens

# `metrics` is for whoever scrapes the figures, who need not be able to do anything else.
Permission = Literal["runs:read", "runs:write", "runs:start", "metrics", "admin"]
PERMISSIONS: Final = cast(tuple[Permission, ...], get_args(Permission))


class Principal(Protocol):
    """A caller whom the server knows."""

    @property
    def name(self) -> str:
        """What logs call it; never a secret."""
        ...

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
        """Raises:
        Unauthorized: no token, or one that is wrong, expired or withdrawn.
        Forbidden: the request itself is one that no page or program of ours sends.
        LogUnavailable: the server cannot read its keys now.
        """
        ...

    def mint(self, principal: Principal, run_id: str, ttl_s: float | None) -> tuple[str, float]:
        """A run token that `principal` hands on, and when it expires (seconds since 1970).

        It lives no longer than the principal's own, and dies with it. Whether the principal may read
        the run is the caller's to ask.
        """
        ...

    def hide(self, run_id: str) -> str:
        """The id of a run that a caller may not know of, for the caller to bring back to this server."""
        ...

    def reveal(self, hidden: str) -> str:
        """What was hidden. Raises InvalidInput: it was not, or under another secret."""
        ...

    def describe(self) -> str:
        """One line for the operator: what is asked of callers."""
        ...


class Everyone:
    """The principal of a server without auth: may do everything."""

    name: str = "anyone"
    expires: float | None = None

    def require(self, permission: Permission, run_id: str | None = None) -> None:
        """Never raises."""

    def allows(self, permission: Permission, run_id: str) -> bool:  # noqa: ARG002 - the contract's
        return True

    def still_valid(self) -> bool:
        return True


EVERYONE: Final = Everyone()


class OpenAccess:
    """Auth switched off: everyone may do everything. For apps that guard their routes themselves."""

    def __init__(self) -> None:
        # Nobody asks for these tokens, but a page that fetches one works with and without auth.
        self._tokens = RunTokens.with_new_secret()

    def identify(self, scope: Scope) -> Principal:  # noqa: ARG002 - the contract's
        return EVERYONE

    def mint(self, principal: Principal, run_id: str, ttl_s: float | None) -> tuple[str, float]:
        return self._tokens.mint(run_id, ttl_s, by=principal.name)

    def hide(self, run_id: str) -> str:
        return self._tokens.hide(run_id)

    def reveal(self, hidden: str) -> str:
        return self._tokens.reveal(hidden)

    def describe(self) -> str:
        return "off"
