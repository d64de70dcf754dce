"""Looking at JSON as text: what a decoder would refuse of it, and how deep it is, without making its values.

To make a million empty lists holds a loop for a quarter of a second, most of which goes to the garbage
collector. The functions here take some milliseconds for what a record may hold at most: each step is one
pass over the bytes.
"""

from __future__ import annotations

from itertools import accumulate
from math import isinf
from typing import Final

import msgspec

# Texts up to this size are decoded in less time than they are looked at.
SMALL_BYTES_MAX: Final = 512

# For searches: all digits (so that a number with an exponent of three digits is found by one), both line
# breaks, both brackets that open.
_ALIKE: Final = bytes.maketrans(b"123456789+E\r[", b"0000000000e\n{")
# What may come before a number in JSON, alike; and how far back its beginning is looked for.
_BEFORE_NUMBERS: Final = frozenset((b":", b",", b"{", b" ", b"\t", b"\n"))
_NUMBER_BYTES: Final = 64
# So many places that look like one are looked at before all numbers are.
_IDS_MAX: Final = 1000
# With an exponent of less than three digits only so long a number can be one that floats cannot hold.
_LONG_NUMBER: Final = b"0" * 200
# Brackets as steps down (1) and up (-1, as a signed byte); all else but quotation marks is left out.
_STEPS: Final = bytes.maketrans(b"[{]}", b"\1\1\xff\xff")
_NO_STEPS: Final = bytes(set(range(256)) - set(b'[{]}"'))
# All but numbers as space.
_NUMBERS: Final = bytes(each if each in b"0123456789.eE+-" else 32 for each in range(256))

_decode: Final = msgspec.json.Decoder().decode
# Checks the form alone: neither whether texts are UTF-8 nor whether floats can hold the numbers.
_check_form: Final = msgspec.json.Decoder(msgspec.Raw).decode


def check_json(raw: bytes) -> None:
    """Raises the `ValueError` or `RecursionError` that decoding `raw` would raise."""
    if len(raw) <= SMALL_BYTES_MAX:
        _decode(raw)
        return
    _check_form(raw)
    if not raw.isascii():
        raw.decode()
    if may_hold_huge_number(alike(raw)):
        # (The decoder itself takes twenty times as long for a number near the limit.)
        huge = [number for number in _numbers(raw) if isinf(float(number))]
        # Of these it takes whole ones, unless they are very long.
        _decode(b"[%b]" % b",".join(huge))


def is_deeper(raw: bytes, levels: int) -> bool:
    """Whether more than `levels` objects and lists lie in one another. `raw` is JSON."""
    if len(raw) <= 2 * levels or raw.count(b"[") + raw.count(b"{") <= levels:
        return False
    steps = _without_escapes(raw) if b"\\" in raw else raw
    # Texts without brackets in them are nothing but their quotation marks then.
    steps = _without_texts(steps.translate(_STEPS, _NO_STEPS).replace(b'""', b""))
    if not steps:
        return False
    inner = steps.replace(b"\1\xff", b"")  # the innermost are often most of all
    return max(accumulate(memoryview(inner).cast("b")), default=0) >= levels


def alike(raw: bytes) -> bytes:
    """What is searched for huge numbers, for line breaks (all LF) and for opening brackets (all curly)."""
    return raw.translate(_ALIKE)


def may_hold_huge_number(alike: bytes) -> bool:
    """Whether there is a number that floats may not be able to hold, or what looks so in a text.

    Within ids of hexadecimal digits much looks so; but a number stands behind a mark that no id has before
    it.
    """
    if _LONG_NUMBER in alike:
        return True
    at = -1
    for _ in range(_IDS_MAX):
        at = alike.find(b"0e000", at + 1)
        if at < 0:
            return False
        before = alike[max(0, at - _NUMBER_BYTES) : at].rstrip(b"0.").removesuffix(b"-")
        if not before or before[-1:] in _BEFORE_NUMBERS:
            return True
    return True


def _numbers(raw: bytes) -> list[bytes]:
    """All numbers of a JSON text."""
    rest = _without_texts(_without_escapes(raw))
    rest = rest.replace(b"true", b"").replace(b"false", b"")
    return rest.translate(_NUMBERS).split()


def _without_escapes(raw: bytes) -> bytes:
    """Without what might make a quotation mark look like the end of a text."""
    return raw.replace(b"\\\\", b"").replace(b'\\"', b"")


def _without_texts(raw: bytes) -> bytes:
    return b"".join(raw.split(b'"')[::2]) if b'"' in raw else raw
