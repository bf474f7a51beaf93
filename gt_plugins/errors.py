"""Errors that a person reads, and retrying.

``NonRetriableError``, ``RetriableError`` and ``call_with_retries`` carry the names and the meaning that
node0 gives them in ``node0.utils.node_info``: every exception except NonRetriableError is retried,
``n_retries`` counts the attempts, and the last exception is raised again.

The command lines turn ``UserError`` into exit code 2 (arguments, configuration, names: found before any
work), ``GateRefused`` into 3 and every other ``FinetuneError`` into 1.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class FinetuneError(Exception):
    """Something failed while working; the message is one line: where, what is wrong, how to mend it."""

    exit_code = 1


class UserError(FinetuneError):
    """The caller's arguments, configuration or names are wrong; nothing was started."""

    exit_code = 2


class GateRefused(FinetuneError):
    """A deploy gate said no."""

    exit_code = 3


class NonRetriableError(FinetuneError):
    """Trying again cannot help (a wrong tokenizer, a base without weights, NaN in an adapter)."""


class RetriableError(FinetuneError):
    """Trying again may help (a lock that is held, a peer that is slow, a file being written)."""


def in_file(path: Path | str, where: str, problem: str, mend: str) -> str:
    """The one form of a message about a file: ``path: where: problem; mend``."""
    spot = f"{path}: {where}" if where else f"{path}"
    return f"{spot}: {problem}; {mend}" if mend else f"{spot}: {problem}"


def call_with_retries(
    call: Callable[[], T],
    n_retries: int = 5,
    initial_delay: float = 1.0,
    *,
    max_delay: float = 60.0,
    jitter: float = 0.25,
    sleep: Callable[[float], None] = time.sleep,
    rng: Callable[[], float] = random.random,
    on_retry: Callable[[int, BaseException, float], None] | None = None,
) -> T:
    """Call until it returns, at most ``n_retries`` times, waiting longer after each failure.

    The wait after attempt k (from 0) is ``min(max_delay, initial_delay * 2**k)`` seconds, stretched by up
    to ``jitter`` of itself so that many callers do not come back at once. ``sleep`` and ``rng`` are the
    clock and the dice, so that a test needs neither. ``on_retry`` hears (attempt, error, wait).

    Raises: ValueError if n_retries < 1; NonRetriableError at once; else the last attempt's exception.
    """
    if n_retries < 1:
        raise ValueError("n_retries counts the attempts and must be at least 1")
    for attempt in range(n_retries):
        try:
            return call()
        except NonRetriableError:
            raise
        except Exception as error:
            if attempt == n_retries - 1:
                raise
            wait = min(max_delay, initial_delay * 2.0 ** min(attempt, 63)) * (1.0 + jitter * rng())
            if on_retry is not None:
                on_retry(attempt, error, wait)
            sleep(wait)
    raise AssertionError("unreachable")
