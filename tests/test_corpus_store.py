"""The store: convergence, modes, damage, a full disk, search, purge's rows."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from corpus_helpers import modes, raw_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_plugins.corpus.database import MIGRATIONS
from gt_plugins.corpus.sources import Document
from gt_plugins.corpus.store import Store
from gt_plugins.errors import FinetuneError, UserError
from gt_plugins.town.root import Town
from gt_plugins.town.times import utc
from gt_plugins.transcripts.model import Session, Turn

PUT = {"policy": "p1", "consent": "Ann at 2026"}


def session(name: str = "s1", turns: int = 2, role: str = "deacon", **fields: object) -> Session:
    said = [
        Turn(
            f"t{i}",
            "assistant",
            ({"type": "text", "text": f"zebra{i} of {name}"},),
            f"2026-03-01T08:00:0{i}Z",
        )
        for i in range(turns)
    ]
    known = {"started": "2026-03-01T08:00:00Z", "ended": f"2026-03-01T08:00:0{turns}Z", **fields}
    return Session(id=name, source="claude", turns=tuple(said), role=role, **known)  # type: ignore[arg-type]


def rows(town: Town) -> list[tuple[object, ...]]:
    """Everything in the sessions table but the times of writing."""
    with Store(town) as store:
        return [(s.session, s.policy, s.outcome, s.tuned) for s in store.sessions()]


def test_round_trip(town: Town) -> None:
    kept = session(models=("gt-ft-deacon", "claude-x"), beads=("dm-1",), usage={"input_tokens": 3})
    with Store(town) as store:
        store.add_session(kept, source_hash="h", outcome="merged", redactions={"email": 2}, **PUT)
        found = store.session("s1")
    assert found is not None and found.session == kept
    assert (found.outcome, found.tuned, found.policy) == ("merged", True, "p1")
    assert found.redactions == {"email": 2}


def test_adding_twice_changes_nothing(town: Town) -> None:
    with Store(town) as store:
        states = [store.add_session(session(), source_hash="h", file="f", **PUT).status for _ in range(3)]
    assert states == ["captured", "unchanged", "unchanged"]


def test_growth_replaces_the_row_and_its_index(town: Town) -> None:
    with Store(town) as store:
        store.add_session(session(turns=1), source_hash="h1", file="f", **PUT)
        assert store.add_session(session(turns=3), source_hash="h2", file="f", **PUT).status == "updated"
        assert store.search("zebra2") == ["s1"]
        store.add_session(session(turns=1), source_hash="h1", file="f", **PUT)
        assert store.search("zebra2") == [] and store.search("zebra0") == ["s1"]


@given(order=st.permutations([("a", 1), ("a", 3), ("b", 2), ("c", 3)]))
@settings(max_examples=24, deadline=None)
def test_many_files_of_one_session_converge(
    tmp_path_factory: pytest.TempPathFactory, order: list[tuple[str, int]]
) -> None:
    """Whatever the order, the longest present reading wins (``a`` is read last in its last state)."""
    town = Town(tmp_path_factory.mktemp("t"))
    state: dict[str, int] = {}
    with Store(town) as store:
        for file, turns in order:
            state[file] = turns
            todo = [file]
            while todo:
                name = todo.pop()
                hash = f"h{state[name]}"
                added = store.add_session(session(turns=state[name]), source_hash=hash, file=name, **PUT)
                todo += [added.reread] if added.reread and added.status != "elsewhere" else []
        found = store.session("s1")
    assert found is not None and len(found.session.turns) == max(state.values())


def test_a_surer_identity_is_never_lost(town: Town) -> None:
    with Store(town) as store:
        store.add_session(session(role="witness", rig="demo"), source_hash="h", identity_rank=3, **PUT)
        store.add_session(session(turns=3, role="deacon"), source_hash="g", identity_rank=1, **PUT)
        found = store.session("s1")
    assert found is not None
    assert (found.session.role, found.session.rig, len(found.session.turns)) == ("witness", "demo", 3)


def test_labels_win_over_outcomes(town: Town) -> None:
    with Store(town) as store:
        store.add_session(session(), source_hash="h", **PUT)
        assert store.session("s1").outcome == "unknown"  # type: ignore[union-attr]
        store.set_outcome("s1", "merged")
        store.label("s1", "bad", "it lost work")
        store.add_session(session(turns=3), source_hash="g", **PUT)
        found = store.session("s1")
        assert found is not None and (found.outcome, found.label_reason) == ("bad", "it lost work")
        with pytest.raises(UserError):
            store.label("nobody", "good", "")
        with pytest.raises(UserError):
            store.set_outcome("nobody", "merged")


def test_sessions_by_role_in_order_of_time(town: Town) -> None:
    with Store(town) as store:
        for name, start in (("b", "2026-03-02T00:00:00Z"), ("a", "2026-03-01T00:00:00Z")):
            store.add_session(session(name, started=start), source_hash=name, **PUT)
        store.add_session(session("w", role="witness"), source_hash="w", **PUT)
        assert [s.session.id for s in store.sessions("deacon")] == ["a", "b"]
        assert [s.session.id for s in store.sessions()] == ["a", "w", "b"]


def test_resolving_the_start_of_an_id(town: Town) -> None:
    with Store(town) as store:
        for name in ("abc1", "abc2", "xyz", "xyz.agent-1"):
            store.add_session(session(name), source_hash=name, **PUT)
        assert store.resolve_session("abc1") == "abc1"
        assert store.resolve_session("x") == "xyz"
        for wrong in ("abc", "q", "", "%", "_bc"):
            with pytest.raises(UserError):
                store.resolve_session(wrong)


def test_search_takes_any_words(town: Town) -> None:
    with Store(town) as store:
        store.add_session(session(), source_hash="h", **PUT)
        store.add_document(
            Document("c", "CLAUDE.md", "convention_doc", "A zebra0 rule"), source_hash="d", **PUT
        )
        assert set(store.search("zebra0")) == {"s1", "doc-1"}
        assert store.search('"AND ( NEAR* -x') == []
        with pytest.raises(UserError):
            store.search("  ")


def test_halves_of_pairs_do_not_stop_the_store(town: Town) -> None:
    odd = Turn("t", "user", ({"type": "text", "text": "cut \ud83e here"},))
    with Store(town) as store:
        store.add_session(replace(session(), turns=(odd,)), source_hash="h", **PUT)
        store.add_session(replace(session(), turns=(odd, odd)), source_hash="g", **PUT)
        store.add_document(Document("c", "k", "t", "cut \ud83e here"), source_hash="d", **PUT)
        assert set(store.search("cut here")) == {"s1", "doc-1"}


def test_documents_keep_their_past(town: Town) -> None:
    def put(store: Store, content: str) -> str:
        document = Document("conventions", "CLAUDE.md", "convention_doc", content)
        return store.add_document(document, source_hash=content, **PUT)

    with Store(town) as store:
        assert [put(store, c) for c in ("one", "one", "two", "one")] == [
            "captured",
            "unchanged",
            "updated",
            "updated",
        ]
        present = [d.document.content for _, d in store.documents(current=True)]
        assert present == ["one"] and len(list(store.documents())) == 2
        assert store.retire_documents("conventions", []) == 1
        assert store.document_counts() == {}


def test_modes_whatever_the_umask(town: Town) -> None:
    old = os.umask(0)
    try:
        with Store(town) as store:
            store.add_session(session(), source_hash="h", **PUT)
            found = modes(town.corpus_dir)
    finally:
        os.umask(old)
    assert found["corpus.db"] == found["corpus.db-wal"] == found["corpus.db-shm"] == "0o600"
    assert oct(town.corpus_dir.stat().st_mode & 0o777) == "0o700"
    assert (town.corpus_dir / ".gitignore").read_text() == "*\n"


def test_deleted_text_is_nowhere(town: Town) -> None:
    word = b"quixotrope"
    with Store(town) as store:
        for number in range(30):
            turn = Turn("t", "user", ({"type": "text", "text": f"{word.decode()}{number} " * 50},))
            store.add_session(replace(session(f"s{number}"), turns=(turn,)), source_hash="h", **PUT)
        store.add_document(Document("c", "k", "t", word.decode(), session_id="s1"), source_hash="d", **PUT)
        store.delete_sessions([f"s{number}" for number in range(30)])
        store.compact()
        assert word not in raw_bytes(town.corpus_dir)
        assert store.search("quixotrope3") == [] and list(store.documents()) == []
        assert store.purged() == {f"s{number}" for number in range(30)}


def test_datasets_and_versions(town: Town, tmp_path: Path) -> None:
    with Store(town) as store:
        store.record_dataset(tmp_path / "d1", ["s1", "s2"], "hash1", role="deacon")
        store.record_dataset(tmp_path / "d2", ["s3"], "hash2")
        for version in ("gt-ft-deacon:v2", "gt-ft-deacon:v1"):
            store.record_training(version, "hash1")
        assert store.versions_trained_on(["s2", "s3"]) == ["gt-ft-deacon:v1", "gt-ft-deacon:v2"]
        assert store.versions_trained_on(["s3", "none"]) == []
        assert store.datasets_with(["s1", "s2"]) == {tmp_path / "d1": "hash1"}
        store.record_dataset(tmp_path / "copy", ["s1", "s2"], "hash1")
        store.record_dataset(tmp_path / "d1", ["s4"], "hash3")
        assert store.datasets_with(["s1"]) == {tmp_path / "copy": "hash1"}, "what it held before is gone"
        store.forget_dataset(tmp_path / "copy")
        assert store.datasets_with(["s1"]) == {}
        assert store.versions_trained_on(["s1"]) == ["gt-ft-deacon:v1", "gt-ft-deacon:v2"]


def test_full_disk_is_said_and_nothing_is_torn(town: Town) -> None:
    with Store(town) as store:
        store.add_session(session(), source_hash="h", **PUT)
        pages = store._rows("PRAGMA page_count")[0][0]
        store._run(f"PRAGMA max_page_count = {pages + 1}")
        noise = os.urandom(400_000).hex()
        big = Turn("t", "user", ({"type": "text", "text": noise},))
        with pytest.raises(FinetuneError, match="disk is full"):
            store.add_session(replace(session("s2"), turns=(big,)), source_hash="g", **PUT)
        assert [s.session.id for s in store.sessions()] == ["s1"]
        store._run("PRAGMA max_page_count = 1000000")
        store.add_session(replace(session("s2"), turns=(big,)), source_hash="g", **PUT)
    with Store(town) as store:
        assert store._rows("PRAGMA integrity_check")[0][0] == "ok"
        assert len(list(store.sessions())) == 2


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/bin/mount").exists(), reason="needs a small tmpfs")
def test_full_disk_for_real(town: Town) -> None:
    town.corpus_dir.mkdir()
    if os.system(f"mount -t tmpfs -o size=400k none '{town.corpus_dir}' 2>/dev/null"):
        pytest.skip("mounting is not allowed here")
    try:
        with Store(town) as store:
            stored = 0
            with pytest.raises(FinetuneError, match="disk is full"):
                for number in itertools.count():
                    turn = Turn("t", "user", ({"type": "text", "text": os.urandom(20_000).hex()},))
                    item = replace(session(f"s{number}"), turns=(turn,))
                    store.add_session(item, source_hash=str(number), **PUT)
                    stored += 1
            assert len(list(store.sessions())) == stored
            assert store._rows("PRAGMA integrity_check")[0][0] == "ok"
    finally:
        os.system(f"umount '{town.corpus_dir}'")


def test_damaged_and_foreign_files_are_named(town: Town) -> None:
    town.own_dir(town.corpus_dir)
    town.corpus_db.write_bytes(b"this is no database at all, but it is long enough" * 100)
    with pytest.raises(FinetuneError, match=r"corpus\.db: is damaged or no database; move it aside"):
        Store(town)


def test_damage_inside_is_named(town: Town) -> None:
    with Store(town) as store:
        for number in range(50):
            store.add_session(session(f"s{number}", turns=9), source_hash="h", **PUT)
        store.compact()
    data = bytearray(town.corpus_db.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    town.corpus_db.write_bytes(data)
    with pytest.raises(FinetuneError, match="is damaged"), Store(town) as store:
        list(store.sessions())


def test_a_newer_schema_is_refused(town: Town) -> None:
    Store(town).close()
    db = sqlite3.connect(town.corpus_db)
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(FinetuneError, match="upgrade gastown-finetune"):
        Store(town)


def test_a_half_made_schema_is_finished(town: Town) -> None:
    """A kill while the schema is made leaves nothing of it: it is one transaction."""
    town.own_dir(town.corpus_dir)
    town.corpus_db.write_bytes(b"")
    with Store(town) as store:
        store.add_session(session(), source_hash="h", **PUT)
    assert len(rows(town)) == 1


def test_times_compare_as_text() -> None:
    assert utc("2026-03-01T09:00:00.5+01:00") == "2026-03-01T08:00:00Z"
    assert utc("2026-03-01T08:00:00.000Z") == "2026-03-01T08:00:00Z"
    assert utc("yesterday") == utc("") == ""


def test_what_a_purge_is_told_is_all_json(town: Town) -> None:
    with Store(town) as store:
        store.record_sweep({"captured": 1, "problems": 0})
        found = store.last_sweep()
    assert found is not None and json.dumps(found) and found["captured"] == 1
