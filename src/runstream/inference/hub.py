"""Models of the Hugging Face hub.

mistral.rs can fetch them itself, but holds the interpreter's lock all the while, so that the whole process
stands still for minutes, and it heeds neither `HF_ENDPOINT` nor `HF_HOME`. The hub's own client does better.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ..errors import InferenceFailed
from .local_engine import import_extra

HUB_MODULE: Final = "huggingface_hub"

_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# What a model is made of. Repositories have the same weights in other forms, too, and in folders.
_WANTED: Final = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
_UNWANTED: Final = ("*/*", "consolidated*")


def is_hub_id(text: str) -> bool:
    """Whether a text has the form of "org/model"."""
    return _ID.fullmatch(text) is not None


def fetch_model(model: str, extra: str, is_stopped: Callable[[], bool]) -> Path:
    """The folder of a model, fetched as far as it is not there yet.

    What has been fetched once is found again without a network.

    Raises:
        ExtraMissing: the hub's client is not installed.
        InferenceFailed: there is no such model, it can't be fetched, or the fetch was stopped; has the
            client's words.
    """
    hub: Any = import_extra(HUB_MODULE, extra)
    wanted: dict[str, Any] = {
        "repo_id": model,
        "allow_patterns": _WANTED,
        "ignore_patterns": _UNWANTED,
        "tqdm_class": _progress_bar(is_stopped),
    }
    try:
        for file in _lacking(hub, wanted):
            # In this thread: those that the client starts for a whole model hold up the process's end.
            hub.hf_hub_download(
                model,
                file.filename,
                revision=file.commit_hash,
                tqdm_class=wanted["tqdm_class"],
            )
        return Path(hub.snapshot_download(**wanted))
    except Exception as error:  # the client's own, those of its HTTP library, and the system's
        raise InferenceFailed(
            f"{model} could not be fetched from the Hugging Face hub: {error}"
        ) from error


def _lacking(hub: Any, wanted: dict[str, Any]) -> list[Any]:
    try:
        files = hub.snapshot_download(**wanted, dry_run=True)
    except hub.errors.DryRunError:
        return []  # the hub can't be asked: perhaps the model is there
    return [file for file in files if file.will_download]


def _progress_bar(is_stopped: Callable[[], bool]) -> Callable[..., Any]:
    """One that shows nothing: it is the only way to stop the client."""
    tqdm: Any = importlib.import_module("tqdm").tqdm

    def update(_bar: object, _bytes: float | None = 1) -> None:
        if is_stopped():
            raise InterruptedError("it was stopped")

    bar: Any = type("_Bar", (tqdm,), {"update": update})
    return functools.partial(bar, disable=True)
