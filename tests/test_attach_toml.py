"""TOML edits keep comments, and mean what was asked for whatever the document looks like."""

from __future__ import annotations

import tomllib

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_plugins.errors import UserError
from gt_plugins.settings import update_settings
from gt_plugins.town.root import Town
from gt_plugins.town.toml_text import remove_values, set_values

TEXT = """# mine
[gate]  # strict
threshold = 0.95 # as agreed

[scrub]
deny = [
  "Project Falcon", # never
  "[consent]",
]
"""


def test_comments_and_order_stay():
    changed = set_values(TEXT, "consent", {"granted": True, "by": "Ann"})
    assert changed == TEXT + '\n[consent]\ngranted = true\nby = "Ann"\n'
    assert remove_values(changed, "consent", ["granted", "by"]) == TEXT
    stricter = set_values(TEXT, "gate", {"threshold": 0.99, "more": 1})
    assert stricter == TEXT.replace("threshold = 0.95 # as agreed", "threshold = 0.99\nmore = 1")
    listed = set_values(TEXT, "scrub", {"deny": ["a"]})
    assert listed.startswith(TEXT.split("deny")[0]) and tomllib.loads(listed)["scrub"]["deny"] == ["a"]


def test_an_empty_document_and_back():
    changed = set_values("", "consent", {"by": "Ann"})
    assert changed == '[consent]\nby = "Ann"\n' and remove_values(changed, "consent", ["by"]) == ""


@pytest.mark.parametrize(
    "text",
    [
        'consent.by = "x"\n',
        'consent = {by = "x", n = 1}\n',
        '[a]\nt = """\n[consent]\nby = 1\n"""\n[consent]\nn = 1\n',
        "[consent.sub]\nx = 1\n",
        '[ "consent" ]\n"by" = "x"',
    ],
)
def test_odd_documents_are_right_though_comments_may_go(text: str):
    expected = tomllib.loads(text)
    expected.setdefault("consent", {})["by"] = "Ann"
    assert tomllib.loads(set_values(text, "consent", {"by": "Ann"})) == expected
    del expected["consent"]["by"]
    if not expected["consent"]:
        del expected["consent"]
    assert tomllib.loads(remove_values(text, "consent", ["by"])) == expected


KEYS = st.text("abc-_", min_size=1, max_size=3)
VALUES = st.booleans() | st.integers(-9, 9) | st.text(max_size=8) | st.lists(st.text(max_size=4), max_size=2)


@settings(deadline=None)
@given(st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=3), max_size=3), KEYS, KEYS, VALUES)
def test_any_document_means_what_was_asked_for(document, table, key, value):
    text = tomli_w.dumps(document)
    changed = set_values(text, table, {key: value})
    document.setdefault(table, {})[key] = value
    assert tomllib.loads(changed) == document
    del document[table][key]
    if not document[table]:
        del document[table]
    assert tomllib.loads(remove_values(changed, table, [key])) == document


def test_settings_keep_the_operators_comments(town: Town):
    town.settings_file.write_text(TEXT)
    settings = update_settings(town, "consent", granted=True, by="Ann", at="2026-11-23T08:00:00Z")
    assert settings.consent.granted and settings.threshold == 0.95
    assert town.settings_file.read_text().startswith(TEXT)
    town.settings_file.write_text("consent = 3\n")
    with pytest.raises(UserError, match="consent: not a table"):
        update_settings(town, "consent", granted=True)
