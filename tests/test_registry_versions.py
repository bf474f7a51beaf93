"""Registering, hashing, naming and resolving versions; the journal under crashes and under contention."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry_helpers import make_base, make_result, make_source, make_version, score, write_safetensors

from gt_plugins import durable
from gt_plugins.errors import NonRetriableError, UserError
from gt_plugins.registry import evals
from gt_plugins.registry.finite import check_finite, not_finite
from gt_plugins.registry.journal import fold, journal_path, record, town_key
from gt_plugins.registry.versions import (
    MANIFEST,
    adopt_orphans,
    all_versions,
    check_base,
    register,
    resolve,
    set_alias,
    verify,
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "models"


def test_a_version_is_written_whole_private_and_hashed(home: Path, tmp_path: Path) -> None:
    os.umask(0o022)
    version = make_version(home, tmp_path, signals={"town": "abc"}, nothing=None, odd=Path("x"))
    assert version.ref == "gt-ft-deacon:v1"
    manifest = tomllib.loads((version.path / MANIFEST).read_text())
    assert set(manifest["files"]) == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        *(f"role/{n}" for n in ("system.txt", "actions.toml", "fence.toml", "rules.md")),
    }
    assert manifest["meta"] == {"signals": {"town": "abc"}, "odd": "x"}
    assert verify(version) == []
    for path in [version.path, *version.path.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert [v.ref for v in all_versions(home)] == ["gt-ft-deacon:v1"]
    assert not list(home.rglob("*.tmp"))


def test_every_kind_of_change_is_found(home: Path, tmp_path: Path) -> None:
    version = make_version(home, tmp_path)
    weights = version.path / "adapter/adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"\x00")
    assert "is not what was registered" in verify(version)[0]
    weights.unlink()
    assert "is gone" in verify(version)[0]
    weights.write_bytes(whole)
    (version.path / "extra.txt").write_text("x")
    assert "was added" in verify(version)[0]
    (version.path / "extra.txt").unlink()
    manifest = version.path / MANIFEST
    manifest.write_text(manifest.read_text().replace("deacon", "witness"))
    assert "not the manifest that was registered" in verify(version)[0]
    manifest.unlink()
    assert str(manifest) in verify(version)[0]


def test_a_changed_base_is_found(home: Path, tmp_path: Path) -> None:
    version = make_version(home, tmp_path)
    (tmp_path / "base/tokenizer.json").write_text('{"other": 1}')
    assert "changed since it was trained (tokenizer.json)" in verify(version)[0]
    for path in (tmp_path / "base").iterdir():
        path.unlink()
    (tmp_path / "base").rmdir()
    assert "is not there" in verify(version)[0]


@pytest.mark.parametrize("kind", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize("bad", [False, True])
def test_nan_and_inf_are_seen_in_every_float_type(tmp_path: Path, kind: str, bad: bool) -> None:
    words = {"F64": "<u8", "F32": "<u4", "F16": "<u2", "BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1"}
    nan = {
        "F64": 0x7FF8 << 48,
        "F32": 0xFF80_0000,
        "F16": 0xFC00,
        "BF16": 0x7FC0,
        "F8_E4M3": 0xFF,
        "F8_E5M2": 0x7C,
    }
    largest = {
        "F64": (0x7FF0 << 48) - 1,
        "F32": 0x7F7F_FFFF,
        "F16": 0x7BFF,
        "BF16": 0x7F7F,
        "F8_E4M3": 0x7E,
        "F8_E5M2": 0x7B,
    }
    values = [0, largest[kind], nan[kind] if bad else largest[kind]]
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"w": (kind, (3,), numpy.array(values, dtype=words[kind]).tobytes())})
    assert list(not_finite(path)) == ([("w", 1)] if bad else [])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_adapter_that_is_not_finite_gets_no_version(home: Path, tmp_path: Path, value: float) -> None:
    with pytest.raises(
        NonRetriableError, match=r"adapter_model.safetensors: lora_A: 6 of its numbers are NaN or Inf"
    ):
        register(home, "m", "deacon", make_source(tmp_path / "s", value), str(make_base(tmp_path / "b")), {})
    assert all_versions(home) == []
    assert not list(home.glob("m/v*"))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_safetensors_file_or_a_clear_error(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.safetensors")
        path.write_bytes(data)
        try:
            check_finite(path)
        except NonRetriableError as error:
            assert str(path) in str(error)


def test_a_torn_adapter_and_a_pickle_are_refused(home: Path, tmp_path: Path) -> None:
    base = str(make_base(tmp_path / "b"))
    source = make_source(tmp_path / "s")
    weights = source / "adapter/adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4])
    with pytest.raises(NonRetriableError, match="torn copy"):
        register(home, "m", "deacon", source, base, {})
    weights.write_bytes(whole)
    (source / "adapter/adapter_model.bin").write_bytes(b"x")
    with pytest.raises(NonRetriableError, match="pickle"):
        register(home, "m", "deacon", source, base, {})


def test_bad_arguments_are_user_errors_and_leave_nothing(home: Path, tmp_path: Path) -> None:
    source, base = make_source(tmp_path / "s"), str(make_base(tmp_path / "b"))
    bad_base = tmp_path / "no-tokenizer"
    bad_base.mkdir()
    (bad_base / "config.json").write_text("{}")
    for args, message in (
        (("../x", "deacon", source, base), "no model name"),
        (("journal.jsonl", "deacon", source, base), "no model name"),
        (("m", "janitor", source, base), "unknown role 'janitor'; a town has mayor"),
        (("m", "deacon", tmp_path / "nowhere", base), "no such folder"),
        (("m", "deacon", source, str(tmp_path / "nowhere")), "no such base model folder"),
        (("m", "deacon", source, str(bad_base)), "needs tokenizer.json"),
    ):
        with pytest.raises(UserError, match=message):
            register(home, *args, {})
    assert not home.exists() or not list(home.glob("m/v*"))
    assert check_base("tiny") == "tiny"


def test_a_full_disk_leaves_nothing_half_written(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, base = make_source(tmp_path / "s"), str(make_base(tmp_path / "b"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space"):
        register(home, "m", "deacon", source, base, {})
    monkeypatch.undo()
    assert [p.name for p in (home / "m").iterdir() if not p.name.startswith(".lock")] == []
    assert register(home, "m", "deacon", source, base, {}).version == "v1"


def test_references(home: Path, tmp_path: Path) -> None:
    for _ in range(11):
        make_version(home, tmp_path)
    assert resolve(home, "gt-ft-deacon").version == "v11"
    assert resolve(home, "gt-ft-deacon:v2").version == "v2"
    set_alias(home, "gt-ft-deacon:v3", "good")
    assert resolve(home, "gt-ft-deacon@good").version == "v3"
    town = tmp_path / "t"
    for number in (4, 5):
        record(
            home, "deployed", town=town_key(town), role="deacon", model="gt-ft-deacon", version=f"v{number}"
        )
    assert resolve(home, "gt-ft-deacon@live", town, "deacon").version == "v5"
    assert resolve(home, "gt-ft-deacon@previous", town).version == "v4"
    for ref, message in (
        ("other", "no model 'other'; models: gt-ft-deacon"),
        ("gt-ft-deacon:v12", r"no version gt-ft-deacon:v12; gt-ft-deacon has v1, v2, v3, v4, v5, v6, v7, v8"),
        ("gt-ft-deacon@best", "no alias gt-ft-deacon@best; gt-ft-deacon has @good, @live, @previous"),
        ("gt-ft-deacon:", "write MODEL"),
        ("../x:v1", "no model name"),
    ):
        with pytest.raises(UserError, match=message):
            resolve(home, ref)
    with pytest.raises(UserError, match="nothing of gt-ft-deacon is live for witness"):
        resolve(home, "gt-ft-deacon@live", town, "witness")
    other = tmp_path / "other"
    record(home, "deployed", town=town_key(other), role="deacon", model="gt-ft-deacon", version="v9")
    with pytest.raises(UserError, match=r"more than one version \(v5, v9\); say --role or --town"):
        resolve(home, "gt-ft-deacon@live")
    set_alias(home, "gt-ft-deacon", None, remove="good")
    with pytest.raises(UserError, match="no alias"):
        resolve(home, "gt-ft-deacon@good")
    for name in ("live", "v3", "Bad Name", ""):
        with pytest.raises(UserError, match="cannot be an alias"):
            set_alias(home, "gt-ft-deacon", name)


def test_live_and_previous_follow_deploys_and_rollbacks(home: Path) -> None:
    def deploy(version: str) -> None:
        record(home, "deployed", town="/t", role="deacon", model="m", version=version)

    key = ("/t", "deacon")
    for version in ("v1", "v2", "v2", "v3"):
        deploy(version)
    assert (fold(home).live[key].version, fold(home).previous[key].version) == ("v3", "v2")
    record(home, "rolled_back", town="/t", role="deacon", to_model="m", to_version="v2")
    assert (fold(home).live[key].version, fold(home).previous[key].version) == ("v2", "v1")
    record(home, "rolled_back", town="/t", role="deacon")
    assert key not in fold(home).live


def test_a_torn_journal_is_read_as_far_as_it_goes(home: Path, tmp_path: Path) -> None:
    make_version(home, tmp_path)
    make_version(home, tmp_path)
    path = journal_path(home)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        lines[0]
        + b'{"at": "x", "event": "reg\n\x00\xff\xfe\n[1]\n{"event": "registered"}\n\n'
        + lines[1][:-5]
    )
    state = fold(home)
    assert [r.version for r in state.versions.values()] == ["v1"]
    assert [p.line for p in state.problems] == [2, 3, 4, 5, 7]
    record(home, "aliased", model="gt-ft-deacon", alias="good", version="v1")
    assert fold(home).aliases == {("gt-ft-deacon", "good"): "v1"}


def test_a_version_that_missed_its_journal_line_is_adopted(home: Path, tmp_path: Path) -> None:
    for _ in range(3):
        make_version(home, tmp_path)
    (home / "gt-ft-deacon/v3/extra").write_text("x")
    record(home, "pruned", model="gt-ft-deacon", version="v1")
    lines = journal_path(home).read_text().splitlines(keepends=True)
    journal_path(home).write_text(lines[-1])
    assert [v.ref for v in adopt_orphans(home)] == ["gt-ft-deacon:v2"]
    assert adopt_orphans(home) == []
    assert verify(resolve(home, "gt-ft-deacon")) == []
    assert make_version(home, tmp_path).version == "v4"


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.dictionaries(st.text(max_size=8), st.text(max_size=8)).map(
                lambda d: json.dumps({"event": "deployed", **d}).encode()
            ),
        ),
        max_size=12,
    )
)
def test_folding_never_raises(lines: list[bytes]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        journal_path(Path(folder)).write_bytes(b"\n".join(lines))
        state = fold(Path(folder))
        assert all(p.line >= 1 for p in state.problems)


def _register_some(home: str, tmp: str, name: str) -> None:
    for i in range(4):
        register(Path(home), "m", "deacon", make_source(Path(tmp, f"{name}{i}")), f"{tmp}/base", {"by": name})


def test_processes_never_share_a_name(home: Path, tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_register_some, args=(str(home), str(tmp_path), name))
        for name in ("a", "b", "c")
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    state = fold(home)
    assert sorted(r.version for r in state.versions.values()) == sorted(f"v{i}" for i in range(1, 13))
    assert state.problems == []
    assert all(verify(v) == [] for v in all_versions(home))


def test_results_are_only_added_and_hashed(home: Path, tmp_path: Path) -> None:
    version = make_version(home, tmp_path)
    first = score(home, version, 50)
    second = score(home, version, 95)
    assert [p.name for p in (first, second)] == ["v1-decisions-1.json", "v1-decisions-2.json"]
    latest = evals.latest(home, version, "decisions")
    assert latest is not None and latest.score == 0.95 and latest.at
    assert evals.latest(home, version, "other") is None
    second.write_text(second.read_text().replace("0.95", "0.99"))
    assert evals.latest(home, version, "decisions") is None
    assert "is not what the journal says" in evals.verify_evals(home, version, fold(home))[0]
    second.unlink()
    assert "is gone" in evals.verify_evals(home, version, fold(home))[0]


def test_a_result_belongs_to_its_version_and_served_ones_are_told_apart(home: Path, tmp_path: Path) -> None:
    one, two = make_version(home, tmp_path), make_version(home, tmp_path)
    with pytest.raises(UserError, match="cannot be stored with"):
        evals.store(home, two, make_result(one, 3))
    score(home, two, 99, served=True, suite="a/../b c")
    score(home, two, 40, served=False, suite="a/../b c")
    served = evals.latest(home, two, "a/../b c", served=True)
    assert served is not None and served.score == 0.99
    assert (
        sorted(p.parent for p in home.rglob("*.json") if p.parent.name == "evals")
        == [home / "gt-ft-deacon/evals"] * 2
    )


def test_a_full_disk_at_the_journal_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(home, "aliased", model="m", alias="x", version="v1")
    before = journal_path(home).read_bytes()
    monkeypatch.setattr(
        durable.os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space"):
        record(home, "aliased", model="m", alias="y", version="v1")
    monkeypatch.undo()
    assert journal_path(home).read_bytes() == before


def test_registering_needs_no_torch(home: Path, tmp_path: Path) -> None:
    source, base = make_source(tmp_path / "s"), make_base(tmp_path / "b")
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['safetensors'] = None\n"
        "from pathlib import Path\n"
        "from gt_plugins.registry.versions import register\n"
        f"print(register(Path({str(home)!r}), 'm', 'deacon', Path({str(source)!r}), {str(base)!r}, {{}}).ref)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "m:v1", done.stderr
