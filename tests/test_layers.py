"""The house rules that a machine can read in the source: layers, cycles, names, sizes.

`make check` runs this file. A rule is one small function from the modules to the faults it finds.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "runstream"
FACE = "runstream"
# Local inference has a face of its own, so that nobody pays for it with `import runstream`.
FACES = {FACE, "inference"}

# Modules import from lower layers, and public names from their own. `x/*` is the package x whole.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("events", "json_text", "patch", "payload", "record", "retry", "time_span"),
    (
        "admission",
        "api",
        "batch",
        "bell",
        "child_outlet",
        "collector",
        "context",
        "events_query",
        "filter",
        "fold",
        "graph",
        "known_state",
        "lease",
        "log",
        "loop_watch",
        "mailbox",
        "own_loop",
        "portal",
        "position",
        "problem",
        "retention",
        "room",
        "run_state",
        "settings",
        "signature",
        "sse",
        "sse_parser",
        "start",
        "state_store",
        "step",
        "step_fold",
        "step_future",
        "text_fold",
        "ticks",
        "wire",
        "worker_threads",
        "workflow_context",
    ),
    ("engine", "keeper", "logs/*", "outbox", "publisher", "record_queue", "subscription"),
    (
        "attachment",
        "attempt",
        "conductor",
        "conformance/*",
        "connection",
        "handler",
        "invocation",
        "inference/*",
        "integrations/*",
        "launch",
        "local_handler",
        "membership",
        "pipeline",
        "process",
        "publishing",
        "routed",
        "run",
        "runner",
        "server/*",
        "streams",
        "sync_streams",
        "task",
        "workflow",
    ),
    (FACE, "__main__", "cli/*", "demo", "storyteller"),
)

# Names that say nothing draw in whatever has no home.
BANNED_NAMES = {"base", "common", "helpers", "manager", "misc", "utils"}

LINES_MAX = 450
# Files that may be longer, each with the reason why splitting it would hurt the reader.
LONG_FILES: dict[str, str] = {}


@dataclass(frozen=True)
class Import:
    """One name taken from one module of ours (`name` is empty for a whole module)."""

    module: str
    name: str
    line: int
    bound: str  # what the importing module calls it
    offered: bool  # spelt `import X as X`, which offers it to others


@dataclass(frozen=True)
class Module:
    """One source file. Names leave `runstream.` out; the face itself is called `runstream`."""

    name: str
    path: Path
    is_package: bool
    known: frozenset[str]

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import of ours, also inside functions and by a literal `import_module`."""
        return tuple(found for node in ast.walk(self.tree) for found in self._imported(node))

    def _imported(self, node: ast.AST) -> Iterator[Import]:
        match node:
            case ast.Import(names=aliases):
                for alias in aliases:
                    yield from self._ours(alias.name, "", alias)
            case ast.ImportFrom(module=source, names=aliases):
                for alias in aliases:
                    yield from self._ours(
                        self._absolute(source or "", node.level), alias.name, alias
                    )
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(target)) as place, *_],
            ) if self.name != "logs":  # the one place that names the adapters, by their scheme
                yield from self._ours(target, "", place)
            case _:
                pass

    def _absolute(self, source: str, level: int) -> str:
        if level == 0:
            return source
        here = [FACE, *self.name.split(".")] if self.name != FACE else [FACE]
        parents = here[: len(here) - level + self.is_package]
        return ".".join([*parents, source] if source else parents)

    def _ours(self, full: str, name: str, place: ast.alias | ast.Constant) -> Iterator[Import]:
        if full != FACE and not full.startswith(FACE + "."):
            return
        module = full.removeprefix(FACE + ".")
        # `from runstream import record` names a module, not a name of the face.
        inner = name if module == FACE else f"{module}.{name}"
        if name and inner in self.known:
            module, name = inner, ""
        bound, offered = "", False
        if isinstance(place, ast.alias):
            bound = place.asname or place.name.partition(".")[0]
            offered = place.asname == place.name
        yield Import(module, name, place.lineno, bound, offered)


def read_package(root: Path) -> dict[str, Module]:
    """Every module of the package at `root`, by name."""
    paths: dict[str, Path] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts) or FACE] = path
    known = frozenset(paths)
    return {
        name: Module(name, path, path.name == "__init__.py", known) for name, path in paths.items()
    }


def layer_of(module: str) -> int | None:
    """The number of a module's layer, or None for one that the table doesn't know."""
    names = {module, module.replace(".", "/"), module.partition(".")[0] + "/*"}
    return next((number for number, layer in enumerate(LAYERS) if names & set(layer)), None)


def adapter_of(module: str) -> str | None:
    """`sqlite` for logs.sqlite, logs.sqlite.schema and logs.sqlite_writer; None outside of logs."""
    package, _, rest = module.partition(".")
    return rest.lstrip("_").replace(".", "_").partition("_")[0] if package == "logs" else None


# --- the rules -----------------------------------------------------------------------------------


def check_layers(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        here = layer_of(module.name)
        if here is None:
            yield f"{module.name}: no layer yet; add it to LAYERS in tests/test_layers.py"
            continue
        for found in module.imports:
            there = layer_of(found.module)
            at = f"{module.name}:{found.line}"
            if found.module not in modules:
                yield f"{at}: imports {found.module}, which doesn't exist"
            elif there is not None and there > here:
                yield f"{at}: layer {here} imports {found.module} of layer {there}, upwards"
            elif found.name.startswith("_") and not found.name.endswith("__"):
                yield f"{at}: imports {found.name}, which is private to {found.module}"


def check_cycles(modules: dict[str, Module]) -> Iterator[str]:
    # An import inside a function counts: it hides a cycle, it doesn't remove it.
    graph = {name: {found.module for found in m.imports} - {name} for name, m in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield "these import each other in a circle: " + " <- ".join(error.args[1])


def check_adapters(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        here = adapter_of(module.name)
        for found in module.imports:
            there = adapter_of(found.module)
            if here is not None and there and here != there:
                yield (
                    f"{module.name}:{found.line}: imports the adapter {found.module}; adapters "
                    "know the contract alone, and logs/__init__.py names them only as strings"
                )


def check_environment(modules: dict[str, Module]) -> Iterator[str]:
    readers = {"environ", "environb", "getenv", "getenvb"}
    for module in modules.values():
        if module.name == "settings":
            continue
        for node in ast.walk(module.tree):
            match node:
                case ast.Attribute(attr=name) if name in readers:
                    yield f"{module.name}:{node.lineno}: only settings.py reads os.{name}"
                case ast.ImportFrom(module="os", names=aliases):
                    for name in readers & {alias.name for alias in aliases}:
                        yield f"{module.name}:{node.lineno}: only settings.py reads os.{name}"
                case _:
                    pass


def check_names(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        for word in BANNED_NAMES.intersection(module.name.replace(".", "_").split("_")):
            yield f"{module.name}: {word!r} in a file's name says nothing; name the noun it holds"


def check_sizes(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        lines = len(module.text.splitlines())
        if lines > LINES_MAX and not LONG_FILES.get(module.name):
            yield f"{module.name}: {lines} lines (at most {LINES_MAX}); split it by its nouns"


def check_re_exports(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if module.name in FACES:
            continue
        used = {node.id for node in ast.walk(module.tree) if isinstance(node, ast.Name)}
        offered = _strings_in_all(module.tree)
        for found in module.imports:
            unused = module.is_package and found.bound and found.bound not in used
            if found.offered or unused or found.bound in ("*", *offered):
                yield (
                    f"{module.name}:{found.line}: re-exports {found.name or found.module}; only "
                    "the faces (FACES) do that"
                )


def check_type_checking(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        for node in ast.walk(module.tree):
            match node:
                case (
                    ast.Name(id="TYPE_CHECKING")
                    | ast.Attribute(attr="TYPE_CHECKING")
                    | ast.alias(name="TYPE_CHECKING")
                ):
                    yield f"{module.name}:{node.lineno}: TYPE_CHECKING hides a cycle; break it"
                case _:
                    pass


def _strings_in_all(tree: ast.Module) -> set[str]:
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id="__all__")], value=value)
                | ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value)
            ):
                return {
                    item.value
                    for item in ast.walk(value)
                    if isinstance(item, ast.Constant) and isinstance(item.value, str)
                }
            case _:
                pass
    return set()


Rule = Callable[[dict[str, Module]], Iterator[str]]

RULES: tuple[Rule, ...] = (
    check_layers,
    check_cycles,
    check_adapters,
    check_environment,
    check_names,
    check_sizes,
    check_re_exports,
    check_type_checking,
)


@pytest.fixture(scope="module")
def package() -> dict[str, Module]:
    """This package, which every rule looks at, and which takes a second to read."""
    return read_package(PACKAGE)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps(rule: Rule, package: dict[str, Module]) -> None:
    faults = list(rule(package))
    assert not faults, "\n" + "\n".join(faults)


def test_every_long_file_still_exists_and_has_a_reason() -> None:
    assert all(LONG_FILES.values())
    assert set(LONG_FILES) <= set(read_package(PACKAGE))


# --- the rules, tried on small trees that break them ---------------------------------------------

GOOD = {
    "__init__.py": "from runstream.record import Record\n__all__ = ['Record']",
    "errors.py": "class Oops(Exception): ...",
    "record.py": "from .errors import Oops\nfrom . import errors\nclass Record(Oops): ...",
    "log.py": "def f():\n    from runstream.record import Record\n    return Record",
    "settings.py": "import os\nos.environ",
    "logs/__init__.py": "import importlib as i\ndef f(): i.import_module('runstream.logs.memory')",
    "logs/memory.py": "from runstream.log import f\nfrom ..log import f as g",
    "logs/sqlite.py": "from runstream.logs.sqlite_writer import write",
    "logs/sqlite_writer.py": "def write(): ...",
    "cli/__init__.py": "from runstream import Record\ndef main(): return Record",
}

BROKEN: dict[str, tuple[dict[str, str], str]] = {
    "upwards": ({"errors.py": "import runstream.record"}, "imports record of layer 1, upwards"),
    "upwards, relative": ({"log.py": "from .logs import sqlite"}, "imports logs.sqlite of layer 3"),
    "upwards, in a function": (
        {"record.py": "def f():\n    from runstream.log import f"},
        "record:2: layer 1 imports log of layer 2",
    ),
    "upwards, to the face": ({"log.py": "from runstream import Record"}, "imports runstream of"),
    "upwards, by a string": (
        {"log.py": "from importlib import import_module\nimport_module('runstream.logs')"},
        "imports logs of layer 3",
    ),
    "private name": ({"log.py": "from .record import _secret"}, "_secret, which is private"),
    "unknown module": ({"gadget.py": ""}, "gadget: no layer yet; add it to LAYERS"),
    "missing module": ({"log.py": "import runstream.nowhere"}, "nowhere, which doesn't exist"),
    "cycle": (
        {"log.py": "import runstream.task", "task.py": "def f():\n    from .log import f"},
        "in a circle: ",
    ),
    "adapter to adapter": ({"logs/memory.py": "from .sqlite import x"}, "the adapter logs.sqlite"),
    "adapter in the package": ({"logs/__init__.py": "from . import memory\nmemory"}, "as strings"),
    "environment": ({"log.py": "import os\nos.environ['X']"}, "log:2: only settings.py reads"),
    "environment, imported": ({"log.py": "from os import getenv"}, "reads os.getenv"),
    "name": ({"logs/sqlite_utils.py": ""}, "'utils' in a file's name says nothing"),
    "name, private": ({"_helpers.py": ""}, "'helpers' in a file's name"),
    "size": ({"log.py": "\n" * 451}, "log: 451 lines (at most 450)"),
    "re-export in a package": (
        {"logs/__init__.py": "from runstream.log import f"},
        "logs:1: re-exports f",
    ),
    "re-export by __all__": (
        {"log.py": "from .record import Record\n__all__ = ['Record']\nRecord"},
        "log:1: re-exports Record",
    ),
    "re-export by alias": ({"log.py": "from .record import Record as Record"}, "re-exports Record"),
    "re-export of everything": ({"log.py": "from .record import *"}, "re-exports *"),
    "type checking": (
        {"log.py": "import typing\nif typing.TYPE_CHECKING:\n    import runstream.record"},
        "log:2: TYPE_CHECKING hides a cycle",
    ),
}


def faults_of(root: Path, tree: dict[str, str]) -> list[str]:
    for name, source in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    modules = read_package(root)
    return [fault for rule in RULES for fault in rule(modules)]


def test_a_good_tree_has_no_fault(tmp_path: Path) -> None:
    assert faults_of(tmp_path, GOOD) == []


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_tree_is_reported(tmp_path: Path, case: str) -> None:
    tree, expected = BROKEN[case]
    faults = faults_of(tmp_path, GOOD | tree)
    assert any(expected in fault for fault in faults), faults
