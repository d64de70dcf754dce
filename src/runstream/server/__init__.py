"""The server: one ASGI app that keeps the log's promises over HTTP.

`create_app` makes it; it mounts in any ASGI app, and `runstream serve` runs it by itself.
"""

from __future__ import annotations
