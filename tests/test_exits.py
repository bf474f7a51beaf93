"""Exceptions become one line and an exit code; a module of an extra that is not there names the extra."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gt_plugins.cli.exits import EXTRAS, leave
from gt_plugins.errors import FinetuneError, GateRefused, UserError


def raising(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("x.toml: key: wrong"), 2, "error: x.toml: key: wrong"),
        (FinetuneError("broke"), 1, "error: broke"),
        (GateRefused("Model score 0.10 below"), 3, "Model score 0.10 below"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (OSError(28, "No space left on device", "/x"), 1, "error: /x: No space left on device"),
    ],
)
def test_each_kind_of_error_has_its_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        leave(raising(error))
    assert left.value.code == code
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize("module", ["torch", "llama_cpp.llama", "hivemind", "starlette.routing"])
def test_a_missing_extra_is_named(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        leave(raising(ModuleNotFoundError(f"No module named {module!r}", name=module)))
    told = capsys.readouterr().err
    extra = next(name for name, modules in EXTRAS.items() if module.split(".")[0] in modules)
    assert left.value.code == 1
    assert f"pip install 'gastown-finetune[{extra}]'" in told and told.count("\n") == 1


def test_any_other_missing_module_is_a_fault_of_ours() -> None:
    with pytest.raises(ModuleNotFoundError):
        leave(raising(ModuleNotFoundError("No module named 'gt_plugins.gone'", name="gt_plugins.gone")))


def test_the_extras_are_those_of_the_package() -> None:
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS) <= set(project["optional-dependencies"])
