"""Where a model is: looked at before an engine does, whose words for a wrong path help nobody."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ..errors import InvalidInput

_GGUF: Final = b"GGUF"
_READ_BYTES: Final = 16 * 1024 * 1024
# A file that does not fit beside the rest of what runs is left to the engine, which reads what it needs.
_SHARE_OF_MEMORY_MAX: Final = 0.7


def check_gguf(path: Path) -> None:
    """Raises InvalidInput unless there is a file at `path` that begins as GGUF files do."""
    try:
        with path.open("rb") as file:
            begin = file.read(len(_GGUF))
    except FileNotFoundError:
        raise InvalidInput(f"there is no model file {path}") from None
    except OSError as error:
        raise InvalidInput(f"the model file {path} cannot be read: {error.strerror}") from None
    if begin != _GGUF:
        raise InvalidInput(f"{path} is no GGUF file: it begins with {begin!r}")


def read_ahead(path: Path) -> None:
    """Read a model's file into the system's cache.

    The engines' bindings hold the interpreter's lock while they load a model, so nothing else in the
    process runs meanwhile. Reading the file is most of that time, and is done here without the lock.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if not path.is_file() or path.stat().st_size > _SHARE_OF_MEMORY_MAX * memory:
        return
    buffer = bytearray(_READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
