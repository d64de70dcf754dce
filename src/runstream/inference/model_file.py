"""Where a model is: looked at before an engine does, whose words for a wrong path help nobody."""

from __future__ import annotations

from pathlib import Path

from ..errors import InvalidInput

_GGUF = b"GGUF"


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
