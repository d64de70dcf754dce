"""NATS with one server and its data in a file; alone, nats-py publishes all of a batch and then waits for
each acknowledgement.
"""

import asyncio
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import nats
import nats.js.errors

START_S_MAX = 10.0


@contextmanager
def serving(folder: Path) -> Generator[str]:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = ["nats-server", "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
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
            yield f"nats://127.0.0.1:{port}"
        finally:
            process.kill()


async def bare(url: str, batches: Sequence[Sequence[bytes]]) -> float:
    client = await nats.connect(url)  # pyright: ignore[reportUnknownMemberType]
    try:
        stream = client.jetstream()  # pyright: ignore[reportUnknownMemberType] - holes in its types
        try:
            await stream.stream_info("BARE")
        except nats.js.errors.NotFoundError:
            await stream.add_stream(  # pyright: ignore[reportUnknownMemberType]
                name="BARE", subjects=["bare"]
            )
        begin = time.perf_counter()
        for batch in batches:
            sent = [
                await stream.publish_async(  # pyright: ignore[reportUnknownMemberType]
                    "bare", record
                )
                for record in batch
            ]
            await asyncio.gather(*sent)
        return time.perf_counter() - begin
    finally:
        await client.close()
