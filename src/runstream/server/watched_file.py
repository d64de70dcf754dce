"""A file of credentials that takes effect when it changes, without a restart."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from ..errors import InvalidInput
from .answers import NotNow

# How long a withdrawn key may live on; a look costs a few microseconds.
LOOK_S: Final = 1.0

logger = logging.getLogger(__name__)

T = TypeVar("T")


class WatchedFile(Generic[T]):
    """What `parse` makes of a file's bytes, as the file is now. Used by one thread.

    Raises InvalidInput (when it is made): it cannot be read, or `parse` refuses it.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], T]) -> None:
        self.path = path
        self._parse = parse
        self._looked = time.monotonic()
        self._seen: object = None
        self._fault: str | None = None
        try:
            self._seen = self._signature()
            self._latest = parse(path.read_bytes())
        except OSError as error:
            raise InvalidInput(f"cannot read {path}: {error.strerror}") from None
        except InvalidInput as error:
            raise InvalidInput(f"{path}: {error}") from None

    def current(self) -> T:
        """What the file says.

        Raises LogUnavailable: it is gone or broken. So nobody gets in by a key that may have been
        withdrawn, and nobody is told that a good key is wrong.
        """
        latest = self.latest()
        if self._fault is not None:
            raise NotNow("the server cannot read its credentials now: its log says why")
        return latest

    def latest(self) -> T:
        """What the file said when it could last be read; it is looked at once a second at most."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            self._look()
        return self._latest

    def _look(self) -> None:
        try:
            seen = self._signature()
            if seen == self._seen:
                return
            if not self.path.is_file():
                raise InvalidInput("it is no file")  # reading a pipe may take for ever
            self._latest = self._parse(self.path.read_bytes())
            self._seen, self._fault = seen, None
            logger.info("read %s again", self.path)
        except (OSError, InvalidInput) as error:
            self._seen = None
            if str(error) != self._fault:
                logger.error("nobody is let in until %s is mended: %s", self.path, error)  # noqa: TRY400 - the error says it all
            self._fault = str(error)

    def _signature(self) -> object:
        found = self.path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino
