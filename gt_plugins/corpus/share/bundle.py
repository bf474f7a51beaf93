"""The bundle: one zip file of sessions, a manifest with the hash of each, and a signature of the manifest.

Nothing in it is ever written to a path of its own choosing: members are read in memory, one at a time, only
those that the signed manifest names, and no more of them than it says. So names that climb, links, members
of great size or number, and members that are there twice have nothing to get hold of; all are refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...durable import PRIVATE_FILE, fsync_dir, private_dir
from ...errors import UserError, in_file

FORMAT = "gastown-finetune share 1"
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
MOST_FILES = 100_000
MOST_BYTES = 4 << 30
MOST_OF_ONE = 256 << 20
MOST_OF_MANIFEST = 64 << 20
_NAME = re.compile(r"sessions/[0-9]{6}\.json")


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself; ``files`` are name → (SHA-256, size in bytes)."""

    rig: str
    key: str
    sender: str
    made_at: str
    policy: str
    made_with: str = ""
    files: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        files = [{"name": n, "sha256": h, "size": s} for n, (h, s) in self.files.items()]
        return {"format": FORMAT, **vars(self), "files": files}


@dataclass(frozen=True)
class Bundle:
    """A bundle whose members were all found as its manifest has them."""

    path: Path
    manifest: Manifest
    signed: bytes
    """The bytes that were signed."""
    signature: bytes

    @property
    def id(self) -> str:
        """Names the bundle by its content."""
        return hashlib.sha256(self.signed).hexdigest()


def write_bundle(
    path: Path, sessions: Iterable[Mapping[str, Any]], manifest: Manifest, sign: Any
) -> Manifest:
    """Write a bundle, whole or not at all, 0600; returns the manifest with the files in it."""
    private_dir(path.parent) if not path.parent.exists() else None
    stage = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    files: dict[str, tuple[str, int]] = {}
    fd = os.open(stage, os.O_RDWR | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    try:
        with os.fdopen(fd, "w+b") as handle:
            with zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive:
                for number, value in enumerate(sessions):
                    name = f"sessions/{number:06}.json"
                    data = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
                    files[name] = (hashlib.sha256(data).hexdigest(), len(data))
                    archive.writestr(_entry(name), data)
                whole = Manifest(**{**vars(manifest), "files": files})
                told = json.dumps(whole.to_json(), indent=1).encode()
                archive.writestr(_entry(MANIFEST), told)
                archive.writestr(_entry(SIGNATURE), sign(told))
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(stage, path)
    finally:
        stage.unlink(missing_ok=True)
    fsync_dir(path.parent)
    return whole


def _entry(name: str) -> zipfile.ZipInfo:
    """A member without the moment and the user it was made by."""
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (stat.S_IFREG | PRIVATE_FILE) << 16
    return entry


def read_bundle(path: Path) -> Bundle:
    """Read manifest and signature, and look at every member's name. Raises UserError where it is no bundle
    or a dangerous one. Whose signature it is, is not judged here."""
    if not path.is_file():
        raise UserError(in_file(path, "", "a folder" if path.is_dir() else "no such file", "name a bundle"))
    with _opened(path) as archive:
        entries = _entries(path, archive)
        if MANIFEST not in entries or SIGNATURE not in entries:
            raise UserError(in_file(path, "", "not a bundle: it has no signed manifest", ""))
        signed = _member(path, archive, entries[MANIFEST], MOST_OF_MANIFEST)
        signature = _member(path, archive, entries[SIGNATURE], 1024)
        manifest = _manifest(path, signed)
        if set(entries) - {MANIFEST, SIGNATURE} != set(manifest.files):
            odd = sorted(set(entries) - {MANIFEST, SIGNATURE} ^ set(manifest.files))[0]
            raise UserError(in_file(path, odd, "is not what its manifest lists", "ask for the bundle again"))
    return Bundle(path, manifest, signed, signature)


def sessions_in(bundle: Bundle) -> Iterator[dict[str, Any]]:
    """The sessions of a bundle, one in memory at a time. Raises UserError naming the member that is not as
    the manifest has it."""
    path = bundle.path
    with _opened(path) as archive:
        entries = _entries(path, archive)
        for name, (digest, size) in bundle.manifest.files.items():
            if name not in entries:
                raise UserError(in_file(path, name, "is gone", "ask for the bundle again"))
            data = _member(path, archive, entries[name], size)
            if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
                raise UserError(in_file(path, name, "is not what was signed", "ask for the bundle again"))
            try:
                value = json.loads(data)
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                raise UserError(in_file(path, name, "not a JSON object", ""))
            yield value


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(in_file(path, "", f"not a bundle ({error})", "")) from None


def _entries(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Members by name. Raises UserError for any that no bundle of ours could have."""
    found: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    if len(infos) > MOST_FILES + 2:
        raise UserError(in_file(path, "", f"has more than {MOST_FILES} members", ""))
    for info in infos:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.orig_filename not in (MANIFEST, SIGNATURE) and not _NAME.fullmatch(info.orig_filename):
            raise UserError(in_file(path, repr(info.orig_filename)[:80], "no name that a bundle has", ""))
        if kind not in (0, stat.S_IFREG):
            raise UserError(in_file(path, info.filename, "not a plain file", ""))
        if info.flag_bits & 1:
            raise UserError(in_file(path, info.filename, "is encrypted", ""))
        if info.filename in found:
            raise UserError(in_file(path, info.filename, "is there twice", ""))
        found[info.filename] = info
    if sum(info.file_size for info in infos) > MOST_BYTES:
        raise UserError(in_file(path, "", f"unpacks to more than {MOST_BYTES >> 30} GiB", ""))
    return found


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    """A member's bytes, ``most`` at most, whatever its header says."""
    if info.file_size > min(most, MOST_OF_ONE):
        raise UserError(in_file(path, info.filename, f"is larger than {min(most, MOST_OF_ONE)} bytes", ""))
    try:
        with archive.open(info) as handle:
            return handle.read(info.file_size)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        problem = f"cannot be read ({error})"
        raise UserError(in_file(path, info.filename, problem, "ask for the bundle again")) from None


def _manifest(path: Path, signed: bytes) -> Manifest:
    try:
        value = json.loads(signed)
        if value["format"] != FORMAT:
            raise UserError(in_file(path, "format", f"{value['format']!r} is not {FORMAT!r}", "upgrade"))
        files = {}
        for entry in value["files"]:
            name, digest, size = entry["name"], entry["sha256"], entry["size"]
            if not isinstance(size, int) or not 0 <= size <= MOST_OF_ONE or not _NAME.fullmatch(name):
                raise ValueError(f"{name!r:.80}")
            if name in files or not re.fullmatch("[0-9a-f]{64}", digest):
                raise ValueError(f"{name!r:.80}")
            files[name] = (digest, size)
        texts = {k: value[k] for k in ("rig", "key", "sender", "made_at", "policy", "made_with")}
        if not all(isinstance(text, str) and len(text) <= 400 for text in texts.values()):
            raise ValueError("a value is no short text")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(in_file(path, MANIFEST, f"not a manifest ({error!r:.120})", "")) from None
    return Manifest(files=files, **texts)
