"""A worker publishes to a server, a second program follows, and the server is killed in between.

Everything here is one file so that it runs as it is: `python examples/remote.py`. In real life the server
is `runstream serve` on one machine, and the rest runs wherever you like, with RUNSTREAM_URL and
RUNSTREAM_TOKEN in its environment.
"""

import asyncio
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from runstream import LogUnavailable, connect, drain, publish, start_run

STEPS = 30


def serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "runstream", "serve"]
    command += ["--url", f"sqlite:{folder / 'events.db'}", "--port", str(port)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


async def wait_for(url: str) -> None:
    async with connect(url) as streams:
        while True:
            try:
                await streams.list_runs(limit=1)
            except LogUnavailable:
                continue
            return


async def work(url: str, server: subprocess.Popen[bytes]) -> None:
    async with start_run("training", run_id="training-7", url=url):
        for step in range(1, STEPS + 1):
            publish({"step": step, "loss": round(1 / step, 3)}, kind="progress")
            if step == STEPS // 2:
                await drain()
                server.kill()  # what was stored stays; what is published from now on waits here
            await asyncio.sleep(0.01)


async def follow(url: str) -> list[int]:
    steps: list[int] = []
    async with connect(url) as streams:
        async for record in streams.subscribe("training-7", kinds="progress", wait=True):
            if record.kind == "progress":
                steps.append(record.data["step"])
                print(f"step {record.data['step']:>2}: loss {record.data['loss']}")
    return steps


async def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        server = serve(Path(folder), port)
        try:
            await wait_for(url)
            working = asyncio.create_task(work(url, server))
            following = asyncio.create_task(follow(url))
            await asyncio.to_thread(server.wait)
            server = serve(Path(folder), port)  # the same log, the same address
            await working
            assert await following == list(range(1, STEPS + 1))
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    asyncio.run(main())
