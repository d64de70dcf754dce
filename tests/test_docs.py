"""Everything that the documentation tells people to run, run.

Started as a program with a page's path, this file runs the Python of that page; the tests start
it so, because each page deserves a fresh process. A page's blocks share one namespace, and may
await at the top.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import shlex
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
EXAMPLES = sorted(ROOT.glob("examples/*.py"))

# Documentation that takes longer than this to try is not for reading along.
PAGE_S_MAX = 120

_FENCE = re.compile(r"^[ ]*(`{3,})([^`\n]*)\n(.*?)^[ ]*\1[ ]*$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!--\s*not run:?\s*(.*?)\s*-->\s*\Z", re.DOTALL)
_EXAMPLE_NOT_RUN = re.compile(r"^# not run:?[ ]*(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its source, the number of its first line."""

    language: str
    source: str
    line: int


def blocks_of(page: Path) -> Iterator[Block]:
    """The blocks of a page that are meant to be tried; a block left out must say why."""
    text = page.read_text(encoding="utf-8")
    for fence in _FENCE.finditer(text):
        line = text.count("\n", 0, fence.start(3)) + 1
        not_run = _NOT_RUN.search(text, 0, fence.start())
        if not_run is None:
            language = fence[2].strip().partition(" ")[0]
            yield Block(language, textwrap.dedent(fence[3]), line)
        elif not not_run[1]:
            message = f"{page.name}:{line}: this block is not run, and doesn't say why"
            raise ValueError(message)


def commands_of(page: Path) -> Iterator[list[str]]:
    """The arguments of each `runstream` command line in the page's shell blocks."""
    for block in blocks_of(page):
        if block.language not in {"console", "sh", "bash", "shell"}:
            continue
        for line in block.source.replace("\\\n", " ").splitlines():
            # In a console block what has no prompt is output.
            if not line.startswith("$ ") and block.language == "console":
                continue
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.match(r"\w+=", words[0]):
                words.pop(0)
            if words and words[0] == "runstream":
                ends = (i for i, word in enumerate(words) if word in {"|", ">", "&", "&&"})
                yield words[1 : next(ends, None)]


def run_page(page: Path) -> None:
    """Run a page's Python in this process, in a namespace of its own that is `__main__`."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    with asyncio.Runner() as runner:
        for block in blocks_of(page):
            if block.language != "python":
                continue
            # Blank lines put the page's own line numbers into a traceback.
            source = "\n" * (block.line - 1) + block.source
            code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, module.__dict__)
            if code.co_flags & inspect.CO_COROUTINE:
                runner.run(result)


def in_fresh_process(tmp_path: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RUNSTREAM_")}
    environment["RUNSTREAM_URL"] = f"sqlite:{tmp_path}/events.db"
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PAGE_S_MAX,
        check=False,
    )


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_on_the_page_runs(tmp_path: Path, page: Path) -> None:
    if any(block.language == "python" for block in blocks_of(page)):
        result = in_fresh_process(tmp_path, __file__, page)
        assert result.returncode == 0, result.stdout


@pytest.fixture(scope="module")
def help_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """What `runstream COMMAND --help` says (without a command: `runstream --help`), asked once."""

    @cache
    def ask(*command: str) -> str:
        folder = tmp_path_factory.mktemp("help")
        result = in_fresh_process(folder, "-m", "runstream", *command, "--help")
        assert result.returncode == 0, result.stdout
        return result.stdout

    return ask


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_on_the_page_exist(page: Path, help_of: Callable[..., str]) -> None:
    for words in commands_of(page):
        command = words[:1] if words and not words[0].startswith("-") else []
        told = help_of(*command)
        for option in words:
            if re.match(r"--\w", option):
                flag = option.partition("=")[0]
                assert flag in told, f"`runstream {' '.join(words)}`: no {flag}"


@pytest.mark.parametrize("example", EXAMPLES, ids=name)
def test_example_runs(tmp_path: Path, example: Path) -> None:
    not_run = _EXAMPLE_NOT_RUN.search(example.read_text(encoding="utf-8"))
    if not_run is not None:
        assert not_run[1], f"{example.name} is not run, and doesn't say why"
        pytest.skip(not_run[1])
    result = in_fresh_process(tmp_path, example)
    assert result.returncode == 0, result.stdout


# --- the reader of pages, tried on small pages ---------------------------------------------------


def write_page(tmp_path: Path, text: str) -> Path:
    page = tmp_path / "page.md"
    page.write_text(textwrap.dedent(text))
    return page


def test_blocks_share_a_namespace_await_and_see_a_log_of_their_own(tmp_path: Path) -> None:
    page = write_page(
        tmp_path,
        """\
        ```python
        import asyncio, os
        event = asyncio.Event()
        loop = asyncio.get_event_loop_policy
        ```

        ```json
        {"not": python}
        ```

        1. In a list:

           ```python
           event.set()
           async def main() -> str:
               await event.wait()
               return os.environ["RUNSTREAM_URL"]
           print(await main())
           ```

        ```python
        print(asyncio.run(main()), __name__, main.__module__)
        ```
        """,
    )
    result = in_fresh_process(tmp_path, __file__, page)
    url = f"sqlite:{tmp_path}/events.db"
    assert result.stdout == f"{url}\n{url} __main__ __main__\n"
    assert result.returncode == 0


def test_a_failing_block_fails_with_the_line_of_the_page(tmp_path: Path) -> None:
    page = write_page(tmp_path, "# Title\n\n```python\nx = 1\nassert x == 2\n```\n")
    result = in_fresh_process(tmp_path, __file__, page)
    assert result.returncode == 1
    assert 'page.md", line 5' in result.stdout


def test_a_block_may_be_left_out_only_with_a_reason(tmp_path: Path) -> None:
    fence = "```python\nraise SystemExit(3)\n```\n"
    page = write_page(tmp_path, f"<!-- not run: needs a GPU -->\n\n{fence}\n```python\nx\n```\n")
    assert [block.source for block in blocks_of(page)] == ["x\n"]
    for silent in ("<!-- not run: -->", "<!-- not run -->"):
        with pytest.raises(ValueError, match=r"page\.md:3: this block is not run"):
            list(blocks_of(write_page(tmp_path, f"{silent}\n{fence}")))


def test_commands_are_found_in_shell_blocks(tmp_path: Path) -> None:
    page = write_page(
        tmp_path,
        """\
        ```console
        $ RUNSTREAM_URL=memory: runstream tail nightly --last=3  # the newest
        runstream is what the output says
        $ ls
        ```

        ```sh
        runstream ls \\
          --json | head
        make demo
        ```
        """,
    )
    assert list(commands_of(page)) == [
        ["tail", "nightly", "--last=3"],
        ["ls", "--json"],
    ]


if __name__ == "__main__":
    run_page(Path(sys.argv[1]))
