"""Edits of other people's files: the smallest change, content as expected, and back to the byte."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_plugins.errors import UserError
from gt_plugins.town import edits, json_text

KEYS = st.text(max_size=6)
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=4)
INDENTS = st.sampled_from([None, 0, 1, 2, 4, "\t"])
PATHS = st.lists(KEYS, min_size=1, max_size=3)


def merged(document: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """What set_member means, on parsed values."""
    copy = json.loads(json.dumps(document))
    place = copy
    for key in path[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise json_text.NoSuchPlace(key)
    place[path[-1]] = value
    return copy


@settings(deadline=None)
@given(DOCUMENTS, PATHS, VALUES, INDENTS, st.booleans())
def test_set_member_means_what_it_says_and_keeps_the_rest(document, path, value, indent, ascii_only):
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only) + "\n"
    try:
        expected = merged(document, path, value)
    except json_text.NoSuchPlace:
        with pytest.raises(json_text.NoSuchPlace):
            json_text.set_member(text, path, value)
        return
    changed = json_text.set_member(text, path, value)
    assert json.loads(changed) == expected
    edit = edits.plan(Path("x.json"), [changed], text)
    assert edits.original_text(edit, changed) == text


@settings(deadline=None)
@given(DOCUMENTS, KEYS, VALUES, INDENTS)
def test_a_member_put_in_and_taken_out_leaves_the_same_content(document, key, value, indent):
    document.pop(key, None)
    text = json.dumps(document, indent=indent)
    changed = json_text.set_member(text, [key], value)
    assert json.loads(json_text.remove_member(changed, [key])) == document


@settings(deadline=None)
@given(st.lists(VALUES, max_size=4), VALUES, INDENTS)
def test_items_are_appended_and_removed(items, value, indent):
    text = json.dumps({"hooks": {"SessionEnd": items}}, indent=indent)
    changed = json_text.append_item(text, ["hooks", "SessionEnd"], value)
    assert json.loads(changed)["hooks"]["SessionEnd"] == [*items, value]
    kept = json_text.remove_items(changed, ["hooks", "SessionEnd"], lambda item: item == value)
    assert json.loads(kept)["hooks"]["SessionEnd"] == [item for item in items if item != value]


def test_the_last_of_two_equal_keys_counts_as_for_every_reader():
    text = '{"a": {"x": 1}, "a": {"y": 2}}'
    assert json.loads(json_text.set_member(text, ["a", "z"], 3)) == {"a": {"y": 2, "z": 3}}
    assert json.loads(json_text.remove_member(text, ["a"])) == {}


def test_the_indentation_of_the_document_is_taken_up():
    text = '{\n\t"model": "opus"\n}\n'
    assert json_text.set_member(text, ["hooks", "Stop"], []) == (
        '{\n\t"model": "opus",\n\t"hooks": {\n\t\t"Stop": []\n\t}\n}\n'
    )
    assert json_text.set_member('{"a":{}}', ["a", "b"], 1) == '{"a":{"b": 1}}'


def test_undo_restores_bytes_mode_and_missing_folders(tmp_path: Path):
    old = tmp_path / "old.json"
    old.write_text('{"token" :  "hunter2"}')
    os.chmod(old, 0o640)
    edit = edits.plan(old, [json_text.set_member(old.read_text(), ["b"], 1)], old.read_text())
    edits.write(edit)
    assert json.loads(old.read_text())["b"] == 1 and old.stat().st_mode & 0o777 == 0o640
    assert "hunter2" not in json.dumps(edit.record()), "what we remember of a file holds no copy of it"
    assert edits.undo(edits.from_record(json.loads(json.dumps(edit.record()))))
    assert old.read_text() == '{"token" :  "hunter2"}' and old.stat().st_mode & 0o777 == 0o640

    new = tmp_path / "a" / "b" / "new.json"
    edit = edits.plan(new, ["{}"], None)
    edits.write(edit)
    assert new.read_text() == "{}" and new.stat().st_mode & 0o777 == 0o600
    assert edits.undo(edit) and not (tmp_path / "a").exists()


def test_undo_does_nothing_to_a_file_that_somebody_changed(tmp_path: Path):
    path = tmp_path / "f"
    edit = edits.plan(path, ["ours"], None)
    edits.write(edit)
    path.write_text("theirs")
    assert not edits.undo(edit) and path.read_text() == "theirs"
    path.unlink()
    assert edits.undo(edit), "a file that has gone holds nothing of ours"


def test_a_link_stays_a_link(tmp_path: Path):
    real, link = tmp_path / "dotfiles.json", tmp_path / "settings.json"
    real.write_text("{}")
    link.symlink_to(real)
    edits.write(edits.plan(link, ['{"a": 1}'], "{}"))
    assert link.is_symlink() and real.read_text() == '{"a": 1}'


def test_what_is_no_text_is_refused_by_name(tmp_path: Path):
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"b: not UTF-8 text"):
        edits.read_text(tmp_path / "b")
    with pytest.raises(UserError, match="is a folder"):
        edits.read_text(tmp_path)
    assert edits.read_text(tmp_path / "none") is None
