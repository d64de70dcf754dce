"""The two file formats of a model, written with nothing but the standard library.

GGUF version 3 (little-endian, tensors aligned to 32 bytes) and safetensors; all numbers are float32.
"""

from __future__ import annotations

import json
import struct
import sys
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

Value = bool | int | float | str | list[str] | list[int]

_ALIGNMENT: Final = 32
_VERSION: Final = 3
# The numbers of GGUF's value types and of its one tensor type that is used here.
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_F32: Final = 0


@dataclass(slots=True)
class Matrix:
    """Rows of float32, zero at first; a vector is a matrix of one row."""

    rows: int
    columns: int
    values: array[float] = field(init=False)

    def __post_init__(self) -> None:
        self.values = array("f", bytes(4 * self.rows * self.columns))

    def add(self, row: int, column: int, value: float) -> None:
        self.values[row * self.columns + column] += value

    def fill(self, value: float) -> None:
        self.values = array("f", [value]) * (self.rows * self.columns)

    @property
    def shape(self) -> list[int]:
        return [self.columns] if self.rows == 1 else [self.rows, self.columns]

    def encode(self) -> bytes:
        values = self.values
        if sys.byteorder == "big":
            values = values[:]
            values.byteswap()
        return values.tobytes()


def write_gguf(path: Path, metadata: Mapping[str, Value], tensors: Mapping[str, Matrix]) -> None:
    """Write a GGUF file. The specification is in ggml's documentation, `gguf.md`."""
    head = bytearray(struct.pack("<4sIQQ", b"GGUF", _VERSION, len(tensors), len(metadata)))
    for key, value in metadata.items():
        head += _string(key) + _value(value)
    data = bytearray()
    for name, tensor in tensors.items():
        sizes = tensor.shape[::-1]  # GGUF names the innermost first
        head += _string(name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
        head += struct.pack("<IQ", _F32, len(data))
        data += _padded(tensor.encode())
    path.write_bytes(_padded(bytes(head)) + data)


def write_safetensors(path: Path, tensors: Mapping[str, Matrix]) -> None:
    """Write a safetensors file: the length of a JSON header, the header, the numbers."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, tensor in tensors.items():
        begin = len(data)
        data += tensor.encode()
        header[name] = {
            "dtype": "F32",
            "shape": tensor.shape,
            "data_offsets": [begin, len(data)],
        }
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _value(value: Value) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", _BOOL, value)
        case int():
            return struct.pack("<II", _UINT32, value)
        case float():
            return struct.pack("<If", _FLOAT32, value)
        case str():
            return struct.pack("<I", _STRING) + _string(value)
        case list():
            kind = _INT32 if value and isinstance(value[0], int) else _STRING
            items = [_string(v) if isinstance(v, str) else struct.pack("<i", v) for v in value]
            return struct.pack("<IIQ", _ARRAY, kind, len(value)) + b"".join(items)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
