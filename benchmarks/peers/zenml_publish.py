"""ZenML: what `zenml.streaming.publish` costs its caller, in a step.

Real: publish, the step context, the queue, the sender thread, the REST store's request building.
Stubbed: the HTTP adapter's `send` (answers at once), the store's handshake with a server, and the
models of the run and the step, which publish only reads ids and a name from.
"""

import json
import os
import statistics
import tempfile
import time
import uuid
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

from benchmarks.measure import arguments, call_us, emit, max_rss_mib

# Read at import: no home folder, no telemetry.
home = tempfile.TemporaryDirectory()
os.environ |= {"ZENML_CONFIG_PATH": home.name, "ZENML_ANALYTICS_OPT_IN": "false"}

import requests  # type: ignore[import, unused-ignore]  # noqa: E402
from requests.adapters import BaseAdapter  # type: ignore[import, unused-ignore]  # noqa: E402
from zenml.steps.step_context import StepContext  # noqa: E402
from zenml.streaming import flush, publish  # noqa: E402
from zenml.streaming.publishing import _StreamPublisher  # noqa: E402
from zenml.zen_stores.rest_zen_store import RestZenStore, RestZenStoreConfiguration  # noqa: E402

PAYLOAD = {"token": "x" * 74, "index": 12345}  # 100 bytes as compact JSON, asserted below
BURST = 1000  # well below the 4 096 that fit: no call meets a full queue


class Adapter(BaseAdapter):  # type: ignore[misc, unused-ignore]
    """Takes every request and says yes; counts the events that got this far."""

    def __init__(self) -> None:
        super().__init__()
        self.received = 0

    # (What else a caller may pass by name is its own business.)
    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """Answer without a network."""
        body: Any = request.body or b"{}"
        count = len(json.loads(body)["events"])
        self.received += count
        response = requests.Response()
        response.status_code = 200
        response._content = json.dumps({"count": count, "last_id": "1"}).encode()  # noqa: SLF001
        return response

    def close(self) -> None:
        """Nothing is open."""


class Store(RestZenStore):
    """Their store, but nobody answers its handshake."""

    def _initialize(self) -> None:
        """No server to shake hands with."""


def connect(adapter: Adapter) -> None:
    """Give the publisher a REST store whose requests end in `adapter`."""
    config = RestZenStoreConfiguration(url="http://peer.invalid")
    store = Store(config=config, skip_default_registrations=True)
    store.session.mount("http://", adapter)
    _StreamPublisher()._zen_store = store  # noqa: SLF001


def step_context() -> StepContext:
    run = SimpleNamespace(id=uuid.uuid4(), model_version=None)
    step = SimpleNamespace(id=uuid.uuid4(), model_version=None, name="train")
    return StepContext(run, step, {}, {}, {})


def queued(bursts: int) -> list[float]:
    """The cost of calls that find room, in bursts with a flush between them."""
    costs: list[float] = []
    for _ in range(bursts):
        costs += call_us(lambda: publish(PAYLOAD, kind="token"), BURST)
        assert flush(30)
    return costs


def waking(calls: int) -> list[float]:
    """The cost of calls that wake the idle sender."""
    costs: list[float] = []
    for _ in range(calls):
        costs += call_us(lambda: publish(PAYLOAD, kind="token"), 1)
        assert flush(30)
        time.sleep(0.001)  # long enough for the sender to sleep again
    return costs


def main(*, quick: bool) -> None:
    assert len(json.dumps(PAYLOAD, separators=(",", ":"))) == 100
    adapter = Adapter()
    connect(adapter)
    bursts, wakes = (2, 100) if quick else (20, 1000)
    with step_context():
        queued(1)  # warm: the thread starts, the adapters are built
        in_queue, wake = queued(bursts), waking(wakes)
    emit(
        "zenml_publish",
        queued_us=round(statistics.median(in_queue), 2),
        queued_mean_us=round(statistics.fmean(in_queue), 2),  # with the waits for the sender's GIL
        wake_us=round(statistics.median(wake), 2),
        sent=(bursts + 1) * BURST + wakes,
        received=adapter.received,
        max_rss_mib=max_rss_mib(),
        version=version("zenml"),
        note="stubbed: HTTP adapter (no network), store handshake, run and step models",
    )


if __name__ == "__main__":
    main(quick=arguments(__doc__).parse_args().quick)
