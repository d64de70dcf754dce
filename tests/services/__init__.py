"""The engines that tests run against: each a child process of the test, on a free port of this machine.

One file for each engine. It has a context manager that starts one in a temporary folder, and fixtures
over it, which `tests/conftest.py` imports: `redis_url` (one engine for the whole session, for tests that
use run ids of their own) and, for tests that kill, pause or fill it, `redis_server` (one for each test).
What they have in common is in `engine.py`, `log_engine.py` and `proxy.py`.
"""
