"""Versions: ``<models>/<model>/<version>/``, written once, named v1, v2, … and never changed afterwards.

A version holds ``adapter/`` (safetensors), maybe ``gguf/`` and ``training/``, the role's profile in
``role/``, and ``manifest.toml`` with the sha256 of each of these files. The manifest's own hash stands in
the journal, so a changed file shows however it was changed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..durable import private_dir, staged_dir, write_text
from ..errors import NonRetriableError, UserError, in_file
from .journal import State, fold, locked, now, record, town_key

MANIFEST = "manifest.toml"
ROLE_FILES = ("system.txt", "actions.toml", "fence.toml", "rules.md")
TINY = "tiny"
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_VERSION = re.compile(r"v([1-9][0-9]{0,8})")
_ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,39}")
_RESERVED = ("live", "previous")
_BASE_IDENTITY = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class Version:
    """One registered version. ``base`` is ``tiny`` or an absolute folder; ``created`` is RFC 3339."""

    model: str
    version: str
    path: Path
    role: str
    base: str
    created: str
    manifest_sha256: str = ""
    bytes: int = 0

    @property
    def ref(self) -> str:
        """``MODEL:VERSION``."""
        return f"{self.model}:{self.version}"

    @property
    def number(self) -> int:
        """3 for v3."""
        return int(self.version[1:])

    @property
    def home(self) -> Path:
        """The models folder that it stands in."""
        return self.path.parent.parent

    @property
    def role_dir(self) -> Path:
        """The role's profile as it was when this version was trained."""
        return self.path / "role"

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest, read at first use. Raises UserError naming the file where it is gone or broken."""
        return _read_manifest(self.path / MANIFEST)


def register(
    home: Path, model: str, role: str, source_dir: Path, base: str, meta: dict[str, Any] | None = None
) -> Version:
    """Copy what was trained into the models folder as the model's next version.

    ``source_dir`` holds ``adapter/`` and maybe ``gguf/``, ``training/`` and ``role/`` (else the profile
    as shipped is taken). ``meta`` goes into the manifest: what it was trained on and how.
    Raises UserError for a wrong name, role or base; NonRetriableError for an adapter that is torn, a
    pickle, or holds NaN or Inf. Nothing is left behind then.
    """
    from ..town.roles import check_role

    check_model_name(model)
    check_role(role)
    base = check_base(base)
    source_dir = Path(source_dir)
    _check_source(source_dir, role)
    private_dir(home)
    with locked(home / model):
        name = f"v{_next_number(home, model)}"
        target = home / model / name
        with staged_dir(target) as stage:
            _copy_tree(source_dir, stage)
            _add_profile(stage, role)
            manifest = _manifest(stage, model, name, role, base, meta or {})
            write_text(stage / MANIFEST, manifest)
        return _journal(home, target)


def _journal(home: Path, target: Path, **fields: Any) -> Version:
    """Enter the version in ``target`` into the journal, from its own manifest."""
    manifest = _read_manifest(target / MANIFEST)
    version = Version(
        manifest["model"],
        manifest["version"],
        target,
        manifest["role"],
        manifest["base"],
        manifest["created"],
        sha256_file(target / MANIFEST),
        sum(entry["bytes"] for entry in manifest["files"].values()),
    )
    record(
        home,
        "registered",
        model=version.model,
        version=version.version,
        role=version.role,
        base=version.base,
        created=version.created,
        manifest_sha256=version.manifest_sha256,
        bytes=version.bytes,
        **fields,
    )
    return version


def orphans(home: Path, state: State | None = None) -> list[Path]:
    """Folders of whole versions that the journal does not know: a crash before its line, a lost journal."""
    state = fold(home) if state is None else state
    found = []
    for path in sorted(home.glob(f"*/v*/{MANIFEST}")):
        key = (path.parent.parent.name, path.parent.name)
        if key in state.versions or key in state.pruned or not _VERSION.fullmatch(key[1]):
            continue
        try:
            manifest = _read_manifest(path)
            if (manifest.get("model"), manifest.get("version")) == key and not changed_files(path.parent):
                found.append(path.parent)
        except (UserError, TypeError, AttributeError):
            continue
    return found


def adopt_orphans(home: Path) -> list[Version]:
    """Enter such versions into the journal, each hash checked first."""
    if not home.is_dir():
        return []
    with locked(home):
        return [_journal(home, path, adopted=True) for path in orphans(home)]


def all_versions(home: Path, state: State | None = None) -> list[Version]:
    """Every version in the order of registration, from the journal alone."""
    state = fold(home) if state is None else state
    return [
        Version(
            r.model,
            r.version,
            home / r.model / r.version,
            r.role,
            r.base,
            r.created,
            r.manifest_sha256,
            r.bytes,
        )
        for r in state.versions.values()
    ]


def resolve(
    home: Path,
    ref: str,
    town: Path | str | None = None,
    role: str | None = None,
    state: State | None = None,
) -> Version:
    """The version meant by ``MODEL``, ``MODEL:v2``, ``MODEL@live``, ``MODEL@previous`` or ``MODEL@alias``.

    A bare model is its newest version. ``@live`` and ``@previous`` are per town and role: without
    ``town`` any town counts, without ``role`` any role, and more than one answer is an error.
    Raises UserError naming what there is.
    """
    state = fold(home) if state is None else state
    versions = {(v.model, v.version): v for v in all_versions(home, state)}
    model, sep, name = _split(ref)
    mine = [v for v in versions.values() if v.model == model]
    if not mine:
        known = ", ".join(state.models()) or f"{home} holds none"
        raise UserError(f"no model {model!r}; models: {known}")
    if not sep:
        return max(mine, key=lambda v: v.number)
    wanted = name if sep == ":" else _alias_target(state, model, name, town, role)
    found = versions.get((model, wanted))
    if found is None:
        raise UserError(f"no version {model}:{wanted}; {model} has {_names(mine)}")
    return found


def _split(ref: str) -> tuple[str, str, str]:
    for sep in ("@", ":"):
        model, found, name = ref.partition(sep)
        if found:
            check_model_name(model)
            if not name:
                raise UserError(f"{ref!r}: write MODEL, MODEL:v2 or MODEL@live")
            return model, sep, name
    return check_model_name(ref), "", ""


def _alias_target(state: State, model: str, name: str, town: Path | str | None, role: str | None) -> str:
    if name not in _RESERVED:
        target = state.aliases.get((model, name))
        if target is None:
            own = [alias for m, alias in state.aliases if m == model]
            raise UserError(f"no alias {model}@{name}; {model} has @{', @'.join([*own, *_RESERVED])}")
        return target
    table = state.live if name == "live" else state.previous
    key = None if town is None else town_key(town)
    found = {
        d.version
        for (t, r), d in table.items()
        if d.model == model and key in (None, t) and role in (None, r)
    }
    if not found:
        where = f" for {role}" if role else ""
        raise UserError(f"{model}@{name}: nothing of {model} is {name}{where} in {town or 'any town'}")
    if len(found) > 1:
        raise UserError(
            f"{model}@{name} is more than one version ({', '.join(sorted(found))}); say --role or --town"
        )
    return found.pop()


def _names(versions: list[Version], most: int = 12) -> str:
    names = [v.version for v in sorted(versions, key=lambda v: v.number)]
    return ", ".join(names if len(names) <= most else [*names[:3], "…", *names[-3:]])


def verify(version: Version) -> list[str]:
    """What is wrong with a version's files, one line each; empty where every hash holds."""
    if not version.path.is_dir():
        return [f"{version.ref}: its folder {version.path} is gone"]
    path = version.path / MANIFEST
    if not path.is_file():
        return [in_file(path, "", "is gone", "restore it from a copy")]
    if version.manifest_sha256 and sha256_file(path) != version.manifest_sha256:
        return [in_file(path, "", "is not the manifest that was registered", "restore it from a copy")]
    try:
        problems = changed_files(version.path)
    except UserError as error:
        return [str(error)]
    return problems + _base_problems(version)


def changed_files(path: Path) -> list[str]:
    """Files of a version that are gone, changed or new, against its manifest."""
    listed = _read_manifest(path / MANIFEST).get("files")
    if not isinstance(listed, dict):
        return [in_file(path / MANIFEST, "files", "is gone", "restore it from a copy")]
    there = {name: path / name for name in _walk(path) if name != MANIFEST}
    problems = [in_file(path / name, "", "is gone", "restore it") for name in listed if name not in there]
    problems += [
        in_file(file, "", "was added", "remove it") for name, file in there.items() if name not in listed
    ]
    for name, file in there.items():
        if name in listed and sha256_file(file) != listed[name].get("sha256"):
            problems.append(in_file(file, "", "is not what was registered", "restore it from a copy"))
    return sorted(problems)


def base_folder(version: Version) -> Path:
    """The folder of the version's base model. Raises UserError where it is not there."""
    return resolve_base(version.base)


def resolve_base(base: str) -> Path:
    """``tiny`` or a folder → the folder. Raises UserError where it is not there."""
    folder = Path(__file__).parent.parent / "training" / "tiny_base" if base == TINY else Path(base)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such base model folder (base {base!r})")
    return folder


def check_base(base: str) -> str:
    """``tiny``, or the absolute path of a base folder with config and tokenizer. Raises UserError."""
    if base == TINY:
        return TINY
    folder = Path(base).expanduser().absolute()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such base model folder; give tiny or a Hugging Face folder")
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: a base model needs {name}; it is not there")
    return str(folder)


def check_model_name(model: str) -> str:
    """``model`` if it can name a folder. Raises UserError."""
    if not _MODEL.fullmatch(model) or model.endswith((".jsonl", ".lock", ".tmp")):
        raise UserError(f"{model!r} is no model name; use letters, digits, '.', '_' and '-'")
    return model


def set_alias(home: Path, ref: str, alias: str | None, remove: str | None = None) -> Version:
    """Give a version a name (``MODEL@alias``), or with ``remove`` take that name away. Raises UserError."""
    name = remove or alias or ""
    if not _ALIAS.fullmatch(name) or name in _RESERVED or _VERSION.fullmatch(name):
        raise UserError(
            f"{name!r} cannot be an alias; use lower-case letters, not live, previous or a version's name"
        )
    with locked(home):
        version = resolve(home, f"{ref}@{name}" if remove else ref)
        record(home, "aliased", model=version.model, alias=name, version="" if remove else version.version)
    return version


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    import hashlib  # 6 ms, as tomllib and shutil are: a listing needs none of them

    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _check_source(source: Path, role: str) -> None:
    from .finite import check_finite

    if not source.is_dir():
        raise UserError(f"{source}: no such folder to register")
    adapter = source / "adapter"
    weights = sorted(adapter.glob("*.safetensors"))
    if pickles := [p for p in adapter.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")]:
        raise NonRetriableError(
            in_file(pickles[0], "", "is a pickle, which can run code", "save it as safetensors")
        )
    if not weights and not any((source / "gguf").glob("*.gguf")):
        raise UserError(f"{source}: nothing to register: no adapter/*.safetensors and no gguf/*.gguf")
    if weights and not (adapter / "adapter_config.json").is_file():
        raise UserError(f"{adapter}: adapter_config.json is not there")
    for path in sorted(source.rglob("*.safetensors")):
        check_finite(path)
    for path in sorted((source / "gguf").glob("*.gguf")):
        with path.open("rb") as handle:
            if handle.read(4) != b"GGUF":
                raise NonRetriableError(in_file(path, "", "is no GGUF file", "export it again"))
    folder = source / "role" if (source / "role").is_dir() else _shipped_profile(role)
    missing = [name for name in ROLE_FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: the profile of {role} lacks {', '.join(missing)}")


def _shipped_profile(role: str) -> Path:
    return Path(__file__).parent.parent / "roles" / role


def _add_profile(stage: Path, role: str) -> None:
    import shutil

    if (stage / "role").is_dir():
        return
    (stage / "role").mkdir()
    for name in ROLE_FILES:
        shutil.copyfile(_shipped_profile(role) / name, stage / "role" / name)


def _copy_tree(source: Path, target: Path) -> None:
    """Copy every regular file, links by content; hidden files, caches and an old manifest stay behind."""
    import shutil

    for name in _walk(source):
        if name == MANIFEST:
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def _walk(folder: Path) -> list[str]:
    """Relative POSIX paths of the files below ``folder``, without hidden ones and caches."""
    names = []
    for base, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__pycache__")
        for name in sorted(files):
            path = Path(base, name)
            if not name.startswith(".") and path.is_file():
                names.append(path.relative_to(folder).as_posix())
    return names


def _next_number(home: Path, model: str) -> int:
    """One more than any number the model ever used: a pruned version's name is never given again."""
    state = fold(home)
    used = [n for m, n in [*state.versions, *state.pruned] if m == model]
    used += [p.name for p in (home / model).glob("v*")] if (home / model).is_dir() else []
    return max((int(n[1:]) for n in used if _VERSION.fullmatch(n)), default=0) + 1


def _manifest(stage: Path, model: str, name: str, role: str, base: str, meta: dict[str, Any]) -> str:
    import tomli_w

    files = {n: {"sha256": sha256_file(stage / n), "bytes": (stage / n).stat().st_size} for n in _walk(stage)}
    document = {
        "format": 1,
        "model": model,
        "version": name,
        "role": role,
        "base": base,
        "created": now(),
        "base_identity": base_identity(folder) if (folder := find_base(base)) else {},
        "meta": _toml_value(meta),
        "files": files,
    }
    return tomli_w.dumps(document)


def find_base(base: str) -> Path | None:
    """Like :func:`resolve_base`, None where the folder is not there."""
    try:
        return resolve_base(base)
    except UserError:
        return None


def base_identity(folder: Path) -> dict[str, str]:
    """What tells one base from another without reading gigabytes: small files' hashes, weights' sizes."""
    identity = {n: sha256_file(folder / n) for n in _BASE_IDENTITY if (folder / n).is_file()}
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.gguf")]):
        identity[path.name] = f"{path.stat().st_size} bytes"
    return identity


def _base_problems(version: Version) -> list[str]:
    folder = find_base(version.base)
    if folder is None:
        return [f"{version.ref}: its base {version.base} is not there"]
    was = version.manifest.get("base_identity") or {}
    now_is = base_identity(folder)
    changed = sorted(n for n in {*was, *now_is} if was.get(n) != now_is.get(n)) if was else []
    if not changed:
        return []
    return [f"{version.ref}: its base {folder} changed since it was trained ({', '.join(changed)})"]


def _toml_value(value: Any) -> Any:
    """``value`` as TOML can hold it: no None, string keys, everything odd as text."""
    if isinstance(value, dict):
        return {str(k): _toml_value(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple | set | frozenset):
        return [_toml_value(v) for v in value if v is not None]
    if isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _read_manifest(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(in_file(path, "", f"not TOML ({error})", "restore it from a copy")) from None
    except FileNotFoundError:
        raise UserError(in_file(path, "", "is gone", "restore it from a copy")) from None
