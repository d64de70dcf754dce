"""The fixtures of the browser tests: a real server, and a tab of a real browser."""

from pathlib import Path

import pytest

from browser.chromium import chromium, page
from server_process import server

__all__ = ["chromium", "page", "server"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that drives a browser runs inside Playwright's own event loop, and blocks it."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.allow_blocking)
