"""Safetensors files: their header without any library, and whole files through safetensors itself.

The header (eight bytes of length, then JSON) is enough to know what a file holds and whether it is whole (a
cut-off download, a file being written) before gigabytes are loaded.
"""

from __future__ import annotations

import errno
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import NonRetriableError, in_file

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER = 100_000_000
SIZES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}


class TornFile(NonRetriableError):
    """The file ends before its header says so: cut off, or still being written."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file: its type, its shape, and the bytes it takes in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file holds."""

    path: Path
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read and check a header. Raises FileNotFoundError, TornFile, NonRetriableError for another format."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        first = handle.read(8)
        if len(first) < 8:
            raise TornFile(in_file(path, "", f"only {size} bytes: cut off, or still being written", ""))
        (length,) = struct.unpack("<Q", first)
        if length > MAX_HEADER:
            raise NonRetriableError(in_file(path, "", "not a safetensors file", ""))
        raw = handle.read(length)
    if len(raw) < length:
        raise TornFile(in_file(path, "", "its header is cut off, or still being written", ""))
    try:
        value = json.loads(raw)
        metadata = {str(k): str(v) for k, v in dict(value.pop("__metadata__", {})).items()}
        tensors = {str(name): _info(entry, 8 + length) for name, entry in value.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise NonRetriableError(in_file(path, "", "not a safetensors file", "")) from None
    end = max((info.end for info in tensors.values()), default=8 + length)
    if size < end:
        raise TornFile(in_file(path, "", f"{end - size} bytes are missing at its end", "get it again"))
    return Header(path, tensors, metadata)


def _info(entry: dict[str, Any], data: int) -> TensorInfo:
    shape = tuple(int(n) for n in entry["shape"])
    start, end = (int(n) for n in entry["data_offsets"])
    dtype = str(entry["dtype"])
    if start < 0 or any(n < 0 for n in shape):
        raise ValueError("negative size")
    if dtype in SIZES and end - start != math.prod(shape) * SIZES[dtype]:
        raise ValueError("size and shape differ")
    return TensorInfo(dtype, shape, data + start, data + end)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write safetensors; each tensor is copied, so that shared memory is no hindrance. Raises OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    whole = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    try:
        save_file(whole, path, metadata=metadata)
    except SafetensorError as error:
        # The library wraps what the system said; a full disk must stay recognisable.
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error), str(path)) from None


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU. Raises NonRetriableError where it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (OSError, SafetensorError) as error:
        raise NonRetriableError(in_file(path, "", f"cannot be read ({error})", "")) from None
