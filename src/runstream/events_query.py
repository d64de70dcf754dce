r"""What `GET /v1/runs/{id}/events` can be asked for: the query string, written by clients, read by servers.

Each of `kinds`, `topics`, `steps` and `correlation_ids` may be repeated, and holds names with commas in
between. In a name that itself contains a comma it is written `\,` (and a backslash before a comma or a
backslash `\\`): not as `%2C`, because most libraries encode every comma they are given. Nothing at all
(`kinds=`) is no name: only gaps, drops and the end pass.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, urlencode

import msgspec

from .errors import InvalidInput
from .filter import Filter, make_filter
from .start import Start, make_start

# More than all names of all filters, each in a parameter of its own.
_PARAMETERS_MAX: Final = 500
_NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)
# An escaped character is a token of its own: its last character counts.
_TOKENS: Final = re.compile(r"\\[\\,]|.", re.DOTALL)
_TO_ESCAPE: Final = re.compile(r"[\\,]")
_FILTERS: Final = ("kinds", "topics", "steps", "correlation_ids")
# Read by whoever tells callers apart, not here.
_ACCESS_TOKEN: Final = "access_token"


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A request for records of a run.

    `follow`: go on after what is stored (a stream only). `limit`: records of a page at most (JSON only).
    `wait_s`: how long to wait for the run to begin, and a page for its first record. `stream`: the whole
    stream of the run's root, whichever run of it is named.
    """

    start: Start = Start()
    filter: Filter = Filter()
    follow: bool = True
    limit: int | None = None
    wait_s: float = 0.0
    stream: bool = False


def parse_events_query(query: str, last_event_id: str | None = None) -> EventsQuery:
    """Read a query string. A `Last-Event-ID` wins over every other position.

    Raises:
        InvalidInput: a parameter that is unknown, given twice or impossible.
    """
    given: dict[str, list[str]] = {}
    try:
        for name, value in parse_qsl(
            query, keep_blank_values=True, errors="strict", max_num_fields=_PARAMETERS_MAX
        ):
            given.setdefault(name, []).append(value)
    except ValueError as error:  # also of bytes that are not UTF-8
        raise InvalidInput(f"not a query string: {error}") from None
    given.pop(_ACCESS_TOKEN, None)
    filters = {
        name: [one for value in given.pop(name) for one in _split(value)]
        for name in _FILTERS
        if name in given
    }
    texts: dict[str, str] = {}
    for name, values in given.items():
        if name not in _READERS:
            known = ", ".join((*_FILTERS, *_READERS))
            raise InvalidInput(f"unknown parameter {name[:64]!r}; there are {known}")
        if len(values) > 1:
            raise InvalidInput(f"{name} is given {len(values)} times")
        texts[name] = values[0]
    start = make_start(_number(texts, "from_seq"), texts.get("after"), _number(texts, "last"))
    if last_event_id:
        start = make_start(None, last_event_id, None)
    return EventsQuery(
        start=start,
        filter=make_filter(**filters),
        follow=_flag(texts, "follow", default=True),
        limit=_number(texts, "limit"),
        wait_s=_seconds(texts, "wait"),
        stream=_flag(texts, "stream", default=False),
    )


_READERS: Final = ("from_seq", "after", "last", "follow", "limit", "wait", "stream")


def encode_events_query(query: EventsQuery) -> str:
    """The query string that `parse_events_query` reads as `query`; empty if it asks for nothing."""
    start = query.start
    values: list[tuple[str, object]] = [
        (name, value)
        for name, value in (
            ("from_seq", start.from_seq),
            ("after", start.after),
            ("last", start.last),
            ("limit", query.limit),
        )
        if value is not None
    ]
    if query.wait_s:
        values.append(("wait", f"{query.wait_s:.9f}".rstrip("0").rstrip(".")))
    if not query.follow:
        values.append(("follow", "false"))
    if query.stream:
        values.append(("stream", "true"))
    for name in _FILTERS:
        names: frozenset[str] | None = getattr(query.filter, name)
        if names is not None:
            values.append(
                (name, ",".join(_TO_ESCAPE.sub(r"\\\g<0>", one) for one in sorted(names)))
            )
    return urlencode(values)


def _split(text: str) -> list[str]:
    names = [""] if text else []
    for token in _TOKENS.findall(text):
        if token == ",":
            names.append("")
        else:
            names[-1] += token[-1]
    return names


def _number(texts: dict[str, str], name: str) -> int | None:
    text = texts.get(name)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise InvalidInput(f"{name} is a whole number from 0, not {text[:64]!r}")
    return int(text)


def _seconds(texts: dict[str, str], name: str) -> float:
    text = texts.get(name, "0")
    if not _SECONDS.fullmatch(text):
        raise InvalidInput(f"{name} is a number of seconds, not {text[:64]!r}")
    return float(text)


def _flag(texts: dict[str, str], name: str, *, default: bool) -> bool:
    text = texts.get(name)
    if text is None:
        return default
    if text not in ("true", "false"):
        raise InvalidInput(f"{name} is true or false, not {text[:64]!r}")
    return text == "true"
