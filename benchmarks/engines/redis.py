"""Redis, with appendfsync always; alone, redis-py pipelines one XADD a record."""

import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import redis.asyncio

START_S_MAX = 10.0


@contextmanager
def serving(folder: Path) -> Generator[str]:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + START_S_MAX
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1.0).close()
                    break
                except OSError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.01)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()


async def bare(url: str, batches: Sequence[Sequence[bytes]]) -> float:
    client = redis.asyncio.Redis.from_url(url)
    try:
        await client.ping()
        begin = time.perf_counter()
        for batch in batches:
            pipeline = client.pipeline(transaction=False)
            for record in batch:
                pipeline.xadd("bare", {"d": record})
            await pipeline.execute()
        return time.perf_counter() - begin
    finally:
        await client.aclose()
