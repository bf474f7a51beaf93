"""Is every number of a safetensors file a number? Read without torch: the header, then numpy over the file.

A version with NaN or Inf in its adapter answers nonsense for ever, so it is refused before it gets a name.
The format is 8 bytes of header length (little endian), a JSON header, then the tensors' bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import NonRetriableError, in_file

MAX_HEADER = 100_000_000
CHUNK = 1 << 24
"""Bytes looked at in one go; a multiple of every element size."""

_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
_EXPONENTS: dict[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E4M3": ("u1", 0x7F),
    "F8_E5M2": ("u1", 0x7C),
}
"""Per float type: the unsigned integer of its size, and the bits that are all set only in NaN and Inf."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a safetensors file; ``start`` and ``end`` are byte offsets into the whole file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> list[Tensor]:
    """The tensors of a file. Raises NonRetriableError naming the file where it is torn or no safetensors."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else MAX_HEADER + 1
        if length > min(MAX_HEADER, size - 8):
            raise _broken(path, "", "no safetensors file (its header length does not fit)")
        try:
            header = json.loads(handle.read(length))
        except (ValueError, RecursionError):
            raise _broken(path, "", "no safetensors file (its header is not JSON)") from None
    if not isinstance(header, dict):
        raise _broken(path, "", "no safetensors file (its header is not an object)")
    return [_tensor(path, n, e, 8 + length, size) for n, e in header.items() if n != "__metadata__"]


def _tensor(path: Path, name: str, entry: Any, base: int, size: int) -> Tensor:
    try:
        start, end = (base + int(offset) for offset in entry["data_offsets"])
        shape = tuple(int(n) for n in entry["shape"])
        tensor = Tensor(name, str(entry["dtype"]), shape, start, end)
    except (TypeError, KeyError, ValueError):
        raise _broken(path, name, "its header entry is broken") from None
    if not base <= start <= end <= size:
        raise _broken(path, name, "its bytes are not all there (a torn copy?)")
    width = _SIZES.get(tensor.dtype)
    count = 1
    for n in shape:
        count *= n
    if width is not None and end - start != width * count:
        raise _broken(path, name, "its shape and its bytes do not agree")
    return tensor


def _broken(path: Path, where: str, problem: str) -> NonRetriableError:
    return NonRetriableError(in_file(path, where, problem, "save the adapter again"))


def not_finite(path: Path) -> Iterator[tuple[str, int]]:
    """(tensor, how many of its numbers are NaN or Inf) for those that have any."""
    import numpy

    for tensor in read_header(path):
        if tensor.dtype not in _EXPONENTS or tensor.start == tensor.end:
            continue
        kind, bits = _EXPONENTS[tensor.dtype]
        bad = 0
        with path.open("rb") as handle:
            handle.seek(tensor.start)
            left = tensor.end - tensor.start
            while left:
                data = handle.read(min(CHUNK, left))
                if not data:
                    raise _broken(path, tensor.name, "its bytes are not all there (a torn copy?)")
                left -= len(data)
                words = numpy.frombuffer(data, dtype=kind)
                bad += int(numpy.count_nonzero((words & bits) == bits))
        if bad:
            yield tensor.name, bad


def check_finite(path: Path) -> int:
    """How many tensors a sound file holds. Raises NonRetriableError naming the first one with NaN or Inf."""
    for name, bad in not_finite(path):
        raise NonRetriableError(
            in_file(path, name, f"{bad} of its numbers are NaN or Inf", "train again with a lower rate")
        )
    return len(read_header(path))
