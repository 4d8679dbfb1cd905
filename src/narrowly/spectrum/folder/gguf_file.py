"""Read and write GGUF files (version 3; 2 is read too) as far as adapters need it, on little-endian machines.

Every size in a file is checked before it is used; nothing is allocated that the file is too short to fill.

Source of the format: gguf 0.19.0 (PyPI), gguf_reader.py and gguf_writer.py. All numbers are little-endian:

    magic "GGUF", version u32, tensors u64, fields u64
    a field: key, type u32, value; a string is its length u64 and its bytes, an array its type u32 and its length u64
    a tensor: name, dimensions u32, each of them u64 (the fastest first), type u32, offset u64
    padding to the alignment (32, or the field general.alignment), then the tensors, each at its offset
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import torch
from torch import Tensor

from narrowly.records.errors import AdapterError

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32

DTYPES = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
"""Types of tensors that are read, by their number in the file."""

NAMES = {2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K"}
"""Some others, for messages."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_FLOAT32, _UINT32, _STRING, _ARRAY = 6, 4, 8, 9

MOST_TENSORS, MOST_FIELDS, LONGEST_STRING, MOST_DIMENSIONS, LARGEST_ALIGNMENT = 100_000, 10_000, 1 << 16, 4, 1 << 16
"""Bounds of what an adapter may declare; those of 400-layer models are far below."""

Value = str | int | float | bool


class _Stored(NamedTuple):
    shape: tuple[int, ...]
    kind: int
    offset: int


class GgufFile:
    """A GGUF file whose header was read and checked.

    Attributes:
        path: of the file.
        fields: strings and numbers of its header; arrays are None.
        shapes: of its tensors by name, rows first.
    """

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            AdapterError: not a GGUF file, cut short, or with sizes beyond the bounds.
        """
        self.path = path
        self.fields: dict[str, Value | None] = {}
        self._stored: dict[str, _Stored] = {}
        try:
            with path.open("rb") as stream:
                self._start = self._read_header(_Cursor(path, stream, path.stat().st_size))
        except OSError as error:
            raise AdapterError(f"{path} cannot be read ({error})") from error
        self.shapes: Mapping[str, tuple[int, ...]] = {name: one.shape for name, one in self._stored.items()}

    def unread(self, name: str) -> str | None:
        """Return the type of a tensor that is not read, None where it is."""
        kind = self._stored[name].kind
        return None if kind in DTYPES else NAMES.get(kind, f"type {kind}")

    @contextmanager
    def opened(self) -> Iterator[GgufFile]:
        """Give the file itself; every tensor is read by itself."""
        yield self

    def get_tensor(self, name: str) -> Tensor:
        """Return one tensor, on the CPU."""
        one = self._stored[name]
        dtype = DTYPES[one.kind]
        if 0 in one.shape:
            return torch.empty(one.shape, dtype=dtype)
        count = _size(one.shape)
        with self.path.open("rb") as stream:
            stream.seek(self._start + one.offset)
            raw = bytearray(stream.read(count * dtype.itemsize))
        return torch.frombuffer(raw, dtype=dtype, count=count).reshape(one.shape)

    def _read_header(self, cursor: _Cursor) -> int:
        """Fill fields and tensors, and return where the tensors begin."""
        if cursor.take(4) != MAGIC:
            raise cursor.fault("does not begin with GGUF")
        version = cursor.number("I")
        if version not in (2, VERSION):
            raise cursor.fault(f"has version {version} (or big-endian numbers), accepted: 2 and {VERSION}")
        tensors, fields = cursor.number("Q"), cursor.number("Q")
        if tensors > MOST_TENSORS or fields > MOST_FIELDS:
            raise cursor.fault(
                f"declares {tensors} tensors and {fields} fields, accepted: {MOST_TENSORS}, {MOST_FIELDS}"
            )
        for _ in range(fields):
            key = cursor.string()
            self.fields[key] = cursor.value(cursor.number("I"))
        for _ in range(tensors):
            name = cursor.string()
            dimensions = cursor.number("I")
            if name in self._stored or dimensions > MOST_DIMENSIONS:
                raise cursor.fault(f"has tensor {name[:60]!r} twice, or with {dimensions} dimensions")
            shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]
            self._stored[name] = _Stored(shape, cursor.number("I"), cursor.number("Q"))
        alignment = self.fields.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= LARGEST_ALIGNMENT or alignment & (alignment - 1):
            raise cursor.fault(
                f"has general.alignment {alignment!r}, accepted: a power of two up to {LARGEST_ALIGNMENT}"
            )
        start = -(-cursor.position // alignment) * alignment
        for name, one in self._stored.items():
            needed = _size(one.shape) * DTYPES[one.kind].itemsize if one.kind in DTYPES else 0
            if start + one.offset + needed > cursor.size:
                raise cursor.fault(f"ends before tensor {name[:60]!r} of shape {one.shape}")
        return start


class _Cursor:
    """Read a file from the front, never more than it has."""

    def __init__(self, path: Path, stream: IO[bytes], size: int) -> None:
        self._path, self._stream, self.size, self.position = path, stream, size, 0

    def fault(self, what: str) -> AdapterError:
        return AdapterError(f"{self._path} is not a valid GGUF file: it {what}")

    def take(self, count: int) -> bytes:
        if count > self.size - self.position:
            raise self.fault("is cut short")
        self.position += count
        return self._stream.read(count)

    def skip(self, count: int) -> None:
        if count > self.size - self.position:
            raise self.fault("is cut short")
        self.position += count
        self._stream.seek(self.position)

    def number(self, code: str) -> int:
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))
        return int(value)

    def string(self) -> str:
        length = self.number("Q")
        if length > LONGEST_STRING:
            raise self.fault(f"has a string of {length} bytes, accepted: up to {LONGEST_STRING}")
        return self.take(length).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Value | None:
        if kind in _SCALARS:
            code = f"<{_SCALARS[kind]}"
            (value,) = struct.unpack(code, self.take(struct.calcsize(code)))
            return value  # type: ignore[no-any-return]
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise self.fault(f"has a field of type {kind}")
        element, length = self.number("I"), self.number("Q")
        if element in _SCALARS:
            self.skip(length * struct.calcsize(f"<{_SCALARS[element]}"))
        elif element == _STRING:
            for _ in range(length):  # each takes 8 bytes at least, so a file that is too short ends this
                self.string()
        else:
            raise self.fault(f"has an array of type {element}")
        return None


def _size(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def write_gguf(path: Path, fields: Mapping[str, str | int | float], tensors: Mapping[str, Tensor]) -> None:
    """Write a GGUF file of version 3.

    Args:
        path: of the file, whose folder exists.
        fields: strings, whole numbers (stored as u32) and floats (stored as f32) by key.
        tensors: float32 tensors of up to four dimensions, by name.

    Raises:
        OSError: the file cannot be written.
    """
    head = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(fields))]
    for key, value in fields.items():
        head += [_text(key), _field(value)]
    offset, plain = 0, {}
    for name, tensor in tensors.items():
        plain[name] = tensor.detach().to("cpu", torch.float32).contiguous()
        sides = plain[name].shape[::-1]
        head += [_text(name), struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, 0, offset)]
        offset += _padded(plain[name].numel() * 4)
    header = b"".join(head)
    with path.open("wb") as stream:
        stream.write(header.ljust(_padded(len(header)), b"\0"))
        for tensor in plain.values():
            raw = tensor.numpy().tobytes()
            stream.write(raw.ljust(_padded(len(raw)), b"\0"))


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _field(value: str | int | float) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    return struct.pack("<If", _FLOAT32, value) if isinstance(value, float) else struct.pack("<II", _UINT32, value)


def _padded(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT
