"""The tiny base's tokenizer comes out of its seed, to the byte: the same text, the same merges."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from gt_plugins.training.base import SHIPPED, train_tokenizer
from gt_plugins.training.pretrain import PretrainPlan, documents_text

TEXT = "84c0139527f45d0ed8b704be0d0fe5e6d0a2209940eebc16e8422327643498b2"
"""Of the first 3,000 documents that the tokenizer is trained on. Another one means that the shipped base can
no longer be built: leave the text as it is, or ship a base that is built from the new one."""
SMALL = """
import sys
from gt_plugins.training.base import train_tokenizer
from gt_plugins.training.pretrain import documents_text
sys.stdout.write(train_tokenizer(documents_text(5, 0, 300), 700).to_str())
"""


def digest(texts: list[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def small(**settings: str) -> str:
    command = [sys.executable, "-c", SMALL]
    env = os.environ | settings
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=300).stdout


def test_a_tokenizer_is_the_same_in_every_process() -> None:
    texts = documents_text(5, 0, 300)
    here = train_tokenizer(texts, 700).to_str()
    assert here == train_tokenizer(texts, 700).to_str()
    assert here == small(PYTHONHASHSEED="1", TOKENIZERS_PARALLELISM="false")
    assert here == small(PYTHONHASHSEED="2", RAYON_NUM_THREADS="4", TOKENIZERS_PARALLELISM="true")
    assert here != train_tokenizer(texts[:200], 700).to_str()


def test_the_text_of_the_shipped_base_is_unchanged() -> None:
    assert digest(documents_text(PretrainPlan().seed + 1, 0, 3000)) == TEXT


@pytest.mark.slow
def test_the_shipped_tokenizer_is_made_again_to_the_byte() -> None:
    plan = PretrainPlan()
    made = train_tokenizer(documents_text(plan.seed + 1, 0, 20_000), plan.shape.vocab).to_str()
    assert made.encode() == (SHIPPED / "tokenizer.json").read_bytes()
