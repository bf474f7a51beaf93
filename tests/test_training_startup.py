"""Starting up: the dataset is built in a process beside the imports, and what is wrong does not wait."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from gt_plugins.cli.model_train import _beside
from gt_plugins.errors import UserError

def built(parent):
    return 7 if os.getpid() != parent else 0

def wrong(parent):
    raise UserError("no corpus yet")

def killed(parent):
    os.kill(os.getpid(), 9)

works = {"built": built, "wrong": wrong, "killed": killed}
try:
    print(_beside(works[sys.argv[1]], os.getpid()), "torch" in sys.modules)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="built in the same process elsewhere")
@pytest.mark.parametrize(
    ("work", "said"),
    [
        ("built", "7 True"),
        ("wrong", "UserError: no corpus yet"),
        ("killed", "FinetuneError: the dataset's process was killed; is there memory enough?"),
    ],
)
def test_a_dataset_is_built_beside_the_imports(work: str, said: str) -> None:
    command = [sys.executable, "-c", PROGRAM, work]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.strip() == said, done.stderr


def test_the_imports_leave_the_collector_on_and_scipy_to_be_found() -> None:
    pytest.importorskip("scipy")
    code = (
        "import gc, sys\n"
        "from gt_plugins.training.adapter import import_libraries\n"
        "import_libraries()\n"
        "from gt_plugins.corpus.scrub import personal\n"
        "personal.find('x')\n"
        "assert 'transformers.modeling_utils' in sys.modules and 'scipy' not in sys.modules\n"
        "assert gc.isenabled() and gc.get_freeze_count() > 100_000\n"
        "from transformers.utils import is_scipy_available\n"
        "import scipy.optimize\n"
        "assert is_scipy_available()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
