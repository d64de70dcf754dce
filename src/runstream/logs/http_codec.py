"""What the client of a server writes and reads: bodies from and to the terms of the log contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from ..api import (
    BODY_BYTES_MAX,
    EVENTS_MAX,
    AppendedEvents,
    EventBody,
    EventsPage,
    LeaseBody,
    OpenedRun,
    ProducerBody,
    RunBody,
    RunList,
)
from ..errors import NotALog, RequestTooLarge
from ..log import END_STATUSES, STATUS_BY_KIND, Lease, Opened, Page, Producer, RunInfo, Status
from ..record import Draft
from ..wire import draft_of, rfc3339, time_us

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)
_STATUSES: Final = frozenset(STATUS_BY_KIND.values()) | END_STATUSES

_encode: Final = msgspec.json.Encoder().encode
_decode_run: Final = msgspec.json.Decoder(RunBody).decode
_decode_runs: Final = msgspec.json.Decoder(RunList).decode
_decode_opened: Final = msgspec.json.Decoder(OpenedRun).decode
_decode_appended: Final = msgspec.json.Decoder(AppendedEvents).decode
_decode_page: Final = msgspec.json.Decoder(EventsPage).decode
