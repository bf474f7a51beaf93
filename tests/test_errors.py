"""errors.call_with_retries: node0's semantics, its backoff, and what each error means to a shell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gt_plugins.cli.common import run
from gt_plugins.errors import (
    FinetuneError,
    GateRefused,
    NonRetriableError,
    RetriableError,
    UserError,
    call_with_retries,
    in_file,
)


class Flaky:
    """Fails with each of ``errors`` in turn, then returns 7; counts its calls."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return 7


def test_a_call_that_works_is_made_once_and_never_waits() -> None:
    waits: list[float] = []
    call = Flaky()
    assert call_with_retries(call, 5, 1.0, sleep=waits.append) == 7
    assert (call.calls, waits) == (1, [])


@given(
    failures=st.integers(0, 12),
    attempts=st.integers(1, 12),
    delay=st.floats(0.0, 100.0),
    cap=st.floats(0.0, 300.0),
    jitter=st.floats(0.0, 2.0),
    dice=st.floats(0.0, 1.0),
)
def test_attempts_and_waits(
    failures: int, attempts: int, delay: float, cap: float, jitter: float, dice: float
) -> None:
    errors = [ValueError(str(i)) for i in range(failures)]
    call = Flaky(*errors)
    waits: list[float] = []

    def go() -> int:
        return call_with_retries(
            call, attempts, delay, max_delay=cap, jitter=jitter, sleep=waits.append, rng=lambda: dice
        )

    if failures < attempts:
        assert go() == 7
    else:
        with pytest.raises(ValueError) as caught:
            go()
        assert caught.value is errors[attempts - 1], "the last attempt's own exception comes out"
    assert call.calls == min(failures + 1, attempts)
    assert len(waits) == call.calls - 1, "a wait between attempts, none after the last"
    for k, wait in enumerate(waits):
        bare = min(cap, delay * 2**k)
        assert bare <= wait <= bare * (1 + jitter) + 1e-9


@given(st.lists(st.floats(0.0, 1.0), min_size=8, max_size=8))
def test_the_wait_doubles_up_to_the_cap_whatever_the_dice(dice: list[float]) -> None:
    waits: list[float] = []
    rolls = iter(dice)
    with pytest.raises(RetriableError):
        call_with_retries(
            Flaky(*[RetriableError("busy")] * 9),
            9,
            1.0,
            max_delay=20.0,
            jitter=0.25,
            sleep=waits.append,
            rng=lambda: next(rolls),
        )
    assert [w / (1 + 0.25 * d) for w, d in zip(waits, dice, strict=True)] == pytest.approx(
        [1, 2, 4, 8, 16, 20, 20, 20]
    )


def test_non_retriable_comes_out_at_once_also_on_a_later_attempt() -> None:
    waits: list[float] = []
    call = Flaky(RetriableError("locked"), NonRetriableError("a wrong tokenizer"), RetriableError("never"))
    with pytest.raises(NonRetriableError, match="a wrong tokenizer"):
        call_with_retries(call, 10, sleep=waits.append)
    assert (call.calls, len(waits)) == (2, 1)


class Derived(NonRetriableError):
    """As a room derives its own."""


@pytest.mark.parametrize("error", [Derived("x"), KeyboardInterrupt(), SystemExit(3)])
def test_what_is_never_retried(error: BaseException) -> None:
    call = Flaky(error)
    with pytest.raises(type(error)):
        call_with_retries(call, 4, sleep=lambda _s: pytest.fail("waited"))
    assert call.calls == 1


@pytest.mark.parametrize("error", [OSError("x"), KeyError("x"), FinetuneError("x"), UserError("x")])
def test_every_other_exception_is_retried(error: Exception) -> None:
    call = Flaky(error)
    assert call_with_retries(call, 2, sleep=lambda _s: None) == 7
    assert call.calls == 2


@pytest.mark.parametrize("attempts", [0, -1])
def test_no_attempts_is_a_mistake_of_the_caller(attempts: int) -> None:
    call = Flaky()
    with pytest.raises(ValueError, match="at least 1"):
        call_with_retries(call, attempts)
    assert call.calls == 0


def test_very_many_attempts_stay_within_the_cap() -> None:
    waits: list[float] = []
    with pytest.raises(OSError):
        call_with_retries(Flaky(*[OSError("x")] * 1500), 1500, 1.0, jitter=0.0, sleep=waits.append)
    assert max(waits) == 60.0 and len(waits) == 1499


def test_on_retry_hears_each_failure_before_the_wait() -> None:
    heard: list[object] = []
    first, second = OSError("a"), OSError("b")
    call_with_retries(
        Flaky(first, second),
        3,
        2.0,
        jitter=0.0,
        sleep=lambda s: heard.append(s),
        on_retry=lambda attempt, error, wait: heard.append((attempt, error, wait)),
    )
    assert heard == [(0, first, 2.0), 2.0, (1, second, 4.0), 4.0]


def test_the_default_dice_spread_the_callers() -> None:
    waits: list[float] = []
    for _ in range(20):
        call_with_retries(Flaky(OSError("x")), 2, 1.0, sleep=waits.append)
    assert len(set(waits)) > 1 and all(1.0 <= w <= 1.25 for w in waits)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("no such role"), 2),
        (GateRefused("below"), 3),
        (FinetuneError("broke"), 1),
        (NonRetriableError("broke"), 1),
        (RetriableError("busy"), 1),
        (KeyboardInterrupt(), 130),
        (OSError(28, "No space left on device", "/x/y"), 1),
    ],
)
def test_exit_codes_and_the_one_line(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def app(**_: object) -> None:
        raise error

    with pytest.raises(SystemExit) as left:
        run(app)  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert left.value.code == code
    assert out == "" and err.count("\n") == 1
    # A gate's refusal is printed word for word: scripts look for that sentence.
    assert err == "below\n" if code == 3 else err.startswith("error: ")


def test_in_file_has_one_form() -> None:
    assert in_file("a.toml", "gate.threshold", "9 is no fraction", "use 0.0 to 1.0") == (
        "a.toml: gate.threshold: 9 is no fraction; use 0.0 to 1.0"
    )
    assert in_file("a.toml", "", "not TOML", "") == "a.toml: not TOML"
