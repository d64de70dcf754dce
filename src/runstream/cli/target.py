"""What `runstream run` runs: a workflow or pipeline, found by file or module and name.

Whatever is wrong with it becomes one line that says where and what to do; `--debug` has the traceback.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeGuard, cast

from ..errors import InvalidInput
from ..events import HumanResponseEvent
from ..invocation import Target
from ..pipeline import Pipeline
from ..step import Step
from ..workflow import Workflow
from .exit_codes import NOT_OK, USAGE
from .options import Problem

# More names than this are no help in an error.
NAMES_SHOWN_MAX: Final = 8


def load_target(text: str) -> Target:
    """The workflow or pipeline that `FILE_OR_MODULE[:NAME]` names; its module is imported.

    Raises:
        Problem: it isn't there, cannot be imported, or is none.
    """
    place, name = _split(text)
    module = _load_file(Path(place)) if _is_file(place) else _load_module(place)
    return _made(_named(module, place, name) if name else _only(module, place), name or place)


def answer_type(target: Target) -> type[HumanResponseEvent]:
    """The class of a person's answers: what a step accepts, if that is one class alone."""
    if isinstance(target, Pipeline):
        return HumanResponseEvent
    accepted = {
        kind
        for step in target.graph.steps.values()
        for kind in step.accepts
        if issubclass(kind, HumanResponseEvent)
    }
    return accepted.pop() if len(accepted) == 1 else HumanResponseEvent


# --- finding the module --------------------------------------------------------------------------


def _split(text: str) -> tuple[str, str]:
    place, colon, name = text.rpartition(":")
    # A drive's colon is no separator, and a path may be given alone.
    if not colon or name.endswith(".py") or "/" in name or os.sep in name:
        return text, ""
    if not place or not name:
        raise Problem(f"{text!r} is not FILE_OR_MODULE:NAME, such as flow.py:MyWorkflow", USAGE)
    return place, name


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place or os.sep in place


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "is not there"
        raise Problem(f"{path} {what} (this folder is {Path.cwd()})", USAGE)
    # What lies beside the file can be imported, as if the file were run as a script.
    sys.path.insert(0, str(path.resolve().parent))
    name = path.stem
    if name in sys.modules or name in sys.stdlib_module_names:
        name = f"runstream_run_{name}"  # others mean another module by that name
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Problem(f"{path} is not a Python file", USAGE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _import_problem(str(path), error) from error
    return module


def _load_module(name: str) -> ModuleType:
    sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(missing + "."):
            file = Path(*name.split(".")).with_suffix(".py")
            hint = f"; a file is named with its ending: {file}" if file.is_file() else ""
            said = f"there is no module {name!r} here or in {sys.prefix}{hint}"
            raise Problem(said, USAGE) from error
        raise _import_problem(name, error) from error
    except (Exception, SystemExit) as error:
        raise _import_problem(name, error) from error


def _import_problem(place: str, error: BaseException) -> Problem:
    if isinstance(error, SystemExit):
        said = (
            "it ends the program when it is imported; put that under `if __name__ == '__main__':`"
        )
    else:
        said = told(error)
    return Problem(f"{place} cannot be imported: {said}", USAGE)


def told(error: BaseException) -> str:
    """The last line of an error's traceback, and where in the user's code it was raised."""
    line = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SyntaxError):
        return f"{line} ({_short(error.filename or '?')}, line {error.lineno})"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and not _is_library(frame.filename)
    ]
    return f"{line} ({_short(frames[-1].filename)}, line {frames[-1].lineno})" if frames else line


def _is_library(filename: str) -> bool:
    """Ours, or installed: what a user did wrong is in the user's own code."""
    path = Path(filename)
    return path.is_relative_to(Path(__file__).parents[1]) or "site-packages" in path.parts


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


# --- finding the name ----------------------------------------------------------------------------


def _is_target(value: object) -> TypeGuard[type[Workflow] | Target]:
    if isinstance(value, type):
        return issubclass(value, Workflow) and value is not Workflow
    return isinstance(value, (Workflow, Pipeline))


def _targets(module: ModuleType) -> dict[str, type[Workflow] | Target]:
    """What can be run of what the module made itself, each once."""
    found: dict[str, type[Workflow] | Target] = {}
    for name, value in vars(module).items():
        if name.startswith("_") or not _is_target(value) or value in found.values():
            continue
        made_here = getattr(value, "__module__", None) == module.__name__
        if made_here or isinstance(value, Workflow):
            found[name] = value
    return found


def _only(module: ModuleType, place: str) -> type[Workflow] | Target:
    targets = _targets(module)
    # A class that it has an instance of isn't meant: the instance is how it wants to be run.
    made = {type(value) for value in targets.values()}
    candidates = [value for value in targets.values() if value not in made]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise Problem(f"{place} has neither a Workflow nor a @pipeline function", USAGE)
    names = ", ".join(f"{place}:{name}" for name in targets)
    raise Problem(f"{place} has several; say which: {names}", USAGE)


def _named(module: ModuleType, place: str, name: str) -> type[Workflow] | Target:
    if name not in vars(module):
        known = list(_targets(module))
        close = difflib.get_close_matches(name, known, n=1)
        if close:
            hint = f"; did you mean {close[0]!r}?"
        elif known:
            hint = f"; it has {', '.join(known[:NAMES_SHOWN_MAX])}"
        else:
            hint = ", and neither a Workflow nor a @pipeline function"
        raise Problem(f"{place} has no {name!r}{hint}", USAGE)
    value: object = vars(module)[name]
    if _is_target(value):
        return value
    if isinstance(value, Step):
        hint = "a step; a Workflow or a @pipeline function runs it"
    elif inspect.isfunction(value):
        hint = "a plain function; put @pipeline above it"
    else:
        hint = f"a {type(value).__name__}; a Workflow or a @pipeline function can be run"
    raise Problem(f"{name!r} in {place} is {hint}", USAGE)


def _made(value: type[Workflow] | Target, name: str) -> Target:
    if not isinstance(value, type):
        return value
    try:
        made: Target = cast("type[Any]", value)()  # a subclass may want arguments
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:
            said = f"{name} cannot be made without arguments; name an instance of it instead"
            raise Problem(f"{said} ({error})", USAGE) from error
        raise Problem(f"{name} cannot be made: {told(error)}", NOT_OK) from error
    except InvalidInput:
        raise
    except Exception as error:
        raise Problem(f"{name} cannot be made: {told(error)}", NOT_OK) from error
    return made
