"""A log on any engine keeps every promise, and the page that helps to choose says what each log keeps."""

from __future__ import annotations

import pytest

from promises_page import statuses
from runstream.conformance import CHECKS, log_factory, run_check
from runstream.conformance.check import REMOTE_CHECK_S_MAX, Check

# The page's names for the logs of `engine_url`.
ENGINES = ("Redis", "NATS", "PostgreSQL")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.area}-{check.name}")
async def test_a_log_on_an_engine_keeps_the_promise(check: Check, engine_url: str) -> None:
    open_log = log_factory(engine_url)
    outcome = await run_check(check, open_log, seconds_max=REMOTE_CHECK_S_MAX)
    assert (outcome.status, outcome.why) == ("kept", "")


def test_the_page_has_every_promise_and_says_that_each_engine_keeps_it() -> None:
    promises = [check.promise for check in CHECKS]
    renewed = "python -m benchmarks.choosing writes docs/choosing-a-log.md anew"
    for name, said in statuses().items():
        assert list(said) == promises, renewed
        if name in ENGINES:
            assert set(said.values()) == {"kept"}, renewed


@pytest.mark.parametrize(
    ("name", "url"), [("memory", "memory:"), ("SQLite", "sqlite:{}/events.db")]
)
@pytest.mark.allow_blocking  # all checks in one loop; each of them is watched elsewhere
async def test_the_page_says_what_an_embedded_log_keeps(
    name: str, url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    open_log = log_factory(url.format(tmp_path_factory.mktemp("log")))
    found: dict[str, str] = {}
    for check in CHECKS:
        outcome = await run_check(check, open_log, seconds_max=REMOTE_CHECK_S_MAX)
        found[check.promise] = outcome.status
    assert found == statuses()[name]
