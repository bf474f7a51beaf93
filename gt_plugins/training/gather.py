"""Gathering: the parts that several processes or peers wrote become one adapter.

A part is a *replica* (the whole adapter as one peer has it, with the tokens it learned from; replicas are
averaged by tokens) or a *shard* (one slice of each tensor along a dimension, all of them together make the
whole). A job's folder is a replica by its newest intact checkpoint, and so is one checkpoint; else it is a
safetensors file whose header says what it is. A part that is missing or still being written is a
RetriableError, one that is wrong a NonRetriableError: ``gather_with_retries`` waits for the first kind.
``training/gathered.py`` makes an adapter's folder or a version of the result.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..durable import PRIVATE_FILE, fsync_dir, private_dir
from ..errors import NonRetriableError, RetriableError, call_with_retries, in_file
from .numerics import finite_or_raise
from .safefile import TornFile, load_tensors, read_header, save_tensors

if TYPE_CHECKING:
    from torch import Tensor

SHARD, REPLICA = "shard", "replica"


def _unsaid(_line: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Part:
    """What a part says of itself."""

    path: Path
    kind: str
    index: int
    of: int
    tokens: int
    dims: Mapping[str, int]
    tensors: Mapping[str, Tensor]


def save_shard(
    path: Path, tensors: Mapping[str, Tensor], index: int, of: int, dims: Mapping[str, int] | None = None
) -> Path:
    """Write shard ``index`` of ``of``; ``dims`` names the dimension along which a tensor was cut (else 0)."""
    return _save(path, tensors, {"kind": SHARD, "index": index, "of": of, "dims": dict(dims or {})})


def save_replica(path: Path, tensors: Mapping[str, Tensor], tokens: int) -> Path:
    """Write a peer's whole adapter with the number of tokens that it learned from since the last time."""
    return _save(path, tensors, {"kind": REPLICA, "tokens": tokens})


def _save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> Path:
    private_dir(path.parent)
    stage = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_tensors(stage, tensors, {"part": json.dumps(facts)})
        os.chmod(stage, PRIVATE_FILE)
        with stage.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(stage, path)
    finally:
        stage.unlink(missing_ok=True)
    fsync_dir(path.parent)
    return path


@dataclass(frozen=True)
class Gathered:
    """An adapter, and the parts that it was made from."""

    parts: tuple[Part, ...]
    tensors: Mapping[str, Tensor]


def gather_with_retries(
    parts: Sequence[Path],
    n_retries: int = 6,
    initial_delay: float = 1.0,
    *,
    max_delay: float = 60.0,
    say: Callable[[str], None] = _unsaid,
    sleep: Callable[[float], None] = time.sleep,
    on_retry: Callable[[int, BaseException, float], None] | None = None,
) -> Gathered:
    """``gather``, waiting for parts that are not there yet; ``on_retry`` as ``call_with_retries`` has it."""
    return call_with_retries(
        lambda: gather(parts, say),
        n_retries,
        initial_delay,
        max_delay=max_delay,
        sleep=sleep,
        on_retry=on_retry,
    )


def gather(parts: Sequence[Path], say: Callable[[str], None] = _unsaid) -> Gathered:
    """Merge parts into one adapter: shards are put together, replicas averaged by tokens.

    ``say`` hears of a job's checkpoint that is damaged, so that the one before was taken.
    Raises RetriableError for a part that is missing or torn; NonRetriableError for one with NaN, with
    another shape or other names than the rest, or of another kind.
    """
    if not parts:
        raise NonRetriableError("no parts to gather an adapter from")
    read = [_folder(path, say) if path.is_dir() else _file(path) for path in parts]
    if len({part.kind for part in read}) > 1:
        raise NonRetriableError(f"{read[0].path.parent}: shards and replicas cannot be gathered into one")
    merged = _joined(read) if read[0].kind == SHARD else _averaged(read)
    finite_or_raise(merged, "the gathered adapter")
    return Gathered(tuple(read), merged)


def _folder(path: Path, say: Callable[[str], None]) -> Part:
    """The replica of a job or of one checkpoint, whole and finite."""
    from .checkpoints import ADAPTER, STATE, latest, load

    if (path / STATE).is_file():
        point = load(path)
    else:
        below = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        found = latest(below)
        for problem in found.problems:
            say(problem)
        if found.checkpoint is None:
            raise RetriableError(in_file(below, "", "no intact checkpoint is there yet", ""))
        point = found.checkpoint
    tokens = point.state.get("tokens")
    if not isinstance(tokens, int) or tokens < 0:
        raise NonRetriableError(
            in_file(point.path / STATE, "tokens", "does not say what it learned from", "")
        )
    finite_or_raise(point.adapter, str(point.path / f"{ADAPTER}.safetensors"))
    return Part(point.path, REPLICA, 0, 1, tokens, {}, point.adapter)


def _file(path: Path) -> Part:
    """The part in a file, whole and finite."""
    try:
        header = read_header(path)
    except FileNotFoundError:
        raise RetriableError(in_file(path, "", "this part is not there yet", "")) from None
    except TornFile as error:
        raise RetriableError(str(error)) from None
    try:
        facts = json.loads(header.metadata["part"])
        kind, index, of = facts["kind"], int(facts.get("index", 0)), int(facts.get("of", 1))
        tokens, dims = int(facts.get("tokens", 0)), dict(facts.get("dims", {}))
        right = kind in (SHARD, REPLICA) and 0 <= index < of and tokens >= 0
    except (KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise NonRetriableError(in_file(path, "header", "does not say which part of an adapter it is", ""))
    tensors = load_tensors(path)
    finite_or_raise(tensors, str(path))
    return Part(path, kind, index, of, tokens, dims, tensors)


def _joined(parts: Sequence[Part]) -> dict[str, Tensor]:
    import torch

    of = parts[0].of
    if any(part.of != of for part in parts):
        raise NonRetriableError(f"{parts[0].path.parent}: shards of different cuts ({of} and others)")
    by_index = {part.index: part for part in parts}
    if len(by_index) != len(parts):
        raise NonRetriableError(f"{parts[0].path.parent}: one shard is there twice")
    missing = sorted(set(range(of)) - set(by_index))
    if missing:
        raise RetriableError(f"{parts[0].path.parent}: shard {missing[0]} of {of} is not there yet")
    slices: dict[str, list[tuple[Part, Tensor]]] = {}
    for index in range(of):
        for name, tensor in by_index[index].tensors.items():
            slices.setdefault(name, []).append((by_index[index], tensor))
    merged = {}
    for name, found in slices.items():
        dim = int(found[0][0].dims.get(name, 0))
        try:
            merged[name] = torch.cat([t for _, t in found], dim) if len(found) > 1 else found[0][1]
        except (RuntimeError, IndexError):
            shapes = ", ".join(str(tuple(t.shape)) for _, t in found)
            raise NonRetriableError(
                in_file(found[0][0].path, name, f"shards of shapes {shapes} do not fit along {dim}", "")
            ) from None
    return merged


def _averaged(parts: Sequence[Part]) -> dict[str, Tensor]:
    import torch

    first = parts[0]
    total = sum(part.tokens for part in parts)
    if total <= 0:
        raise NonRetriableError(f"{first.path.parent}: no replica has learned from any tokens")
    for part in parts[1:]:
        other = set(part.tensors) ^ set(first.tensors)
        if other:
            raise NonRetriableError(in_file(part.path, min(other), "not in every replica", ""))
        for name, tensor in part.tensors.items():
            if tensor.shape != first.tensors[name].shape:
                problem = f"shape {tuple(tensor.shape)} where others have {tuple(first.tensors[name].shape)}"
                raise NonRetriableError(in_file(part.path, name, problem, ""))
    merged = {}
    for name, tensor in first.tensors.items():
        mean = torch.zeros(tensor.shape, dtype=torch.float64)
        for part in parts:
            mean += part.tensors[name].to(torch.float64) * (part.tokens / total)
        merged[name] = mean.to(tensor.dtype)
    return merged
