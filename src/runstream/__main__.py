"""`python -m runstream` is the same as `runstream`."""

from __future__ import annotations

from runstream.cli import main

main()
