"""What a scrubber is told: the key of its surrogates, the exact values of this machine and town, the lists.

The key stands outside the corpus: in ``<town>/.finetune/scrub.key`` for a town, else in
``~/.config/gastown-finetune/scrub.key``; 0600, made once. Without it nobody can test whether a surrogate is
that of a guessed value. Losing it costs nothing but stability: later sessions get other surrogates.
"""

from __future__ import annotations

import getpass
import hashlib
import hmac
import json
import os
import re
import secrets as random_secrets
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...durable import PRIVATE_FILE, fsync_dir, private_dir
from ...errors import UserError, in_file
from ...settings import load_settings
from ...town.root import Town
from .exact import GENERIC_USERS, exact_person, exact_user
from .judge import is_code, is_placeholder, key_strength, looks_random
from .keychains import keychain_values
from .layers import Exact, Policy

KEY_BYTES = 32
_GIT_TIMEOUT = 10
_PUBLIC_HOSTS = frozenset(
    "github.com gitlab.com bitbucket.org codeberg.org git.sr.ht sr.ht dev.azure.com ssh.dev.azure.com "
    "huggingface.co gitee.com localhost 127.0.0.1 ::1 ssh.github.com".split()
)
_COMMON_HOSTS = frozenset(
    "localhost ubuntu debian fedora archlinux nixos raspberrypi server desktop laptop macbook thinkpad "
    "devbox workstation docker builder runner worker master primary gateway router".split()
)
_BOT = re.compile(r"(?i)\[bot\]|\bbot\b|claude|github|dependabot|renovate|copilot|noreply|@anthropic\.com|/")
_RULE_MODULES = (
    "addresses",
    "assignments",
    "blocks",
    "columns",
    "decoding",
    "documents",
    "encoded",
    "engine",
    "exact",
    "formats",
    "judge",
    "keychains",
    "patterns",
    "personal",
    "rules",
    "scan",
    "seal",
    "secrets",
    "spelling",
    "surrogates",
    "views",
)


@lru_cache(maxsize=1)
def rules_version() -> str:
    """A hash of the built-in rules' code: it changes whenever what they find or write may change."""
    digest = hashlib.sha256()
    for name in _RULE_MODULES:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()[:12]


def load_key(path: Path) -> bytes:
    """The key at ``path``, made there (0600, its folder 0700 if new) at the first call.

    Raises UserError where the file is no key of ours. Two processes that make it at once agree on one.
    """
    if not path.exists():
        _make_key(path)
    text = path.read_text(encoding="ascii", errors="replace").strip()
    if not re.fullmatch(rf"[0-9a-f]{{{2 * KEY_BYTES}}}", text):
        raise UserError(
            in_file(path, "", "not a scrub key", "put the old key back, or remove it to get a new one")
        )
    if path.stat().st_mode & 0o077:
        os.chmod(path, PRIVATE_FILE)
    return bytes.fromhex(text)


def _make_key(path: Path) -> None:
    if not path.parent.exists():
        private_dir(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{random_secrets.token_hex(4)}.tmp")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    try:
        os.write(fd, random_secrets.token_hex(KEY_BYTES).encode() + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was first: its key is the key
    finally:
        draft.unlink(missing_ok=True)
    fsync_dir(path.parent)


def town_policy(town: Town, environ: Mapping[str, str] | None = None) -> Policy:
    """The policy of a town: its key, its people, hosts and lists, and the live environment's secrets."""
    settings = load_settings(town)
    key = load_key(town.own_dir(town.finetune_dir) / "scrub.key")
    exact = [*machine_values(os.environ if environ is None else environ), *town_values(town)]
    keychains = tuple(keychain_values(town.root, settings.scrub_keychains))
    return build_policy(key, exact, settings.scrub_deny, settings.scrub_allow, keychains)


def standalone_policy(environ: Mapping[str, str] | None = None) -> Policy:
    """A policy without a town: key in the user's configuration folder, this machine's values."""
    values = os.environ if environ is None else environ
    base = Path(values.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    key = load_key(base / "gastown-finetune" / "scrub.key")
    return build_policy(key, list(machine_values(values)), (), ())


def build_policy(
    key: bytes,
    exact: Iterable[Exact],
    deny: Iterable[str],
    allow: Iterable[str],
    keychains: Sequence[Exact] = (),
) -> Policy:
    """Put a policy together. Its version covers rules, lists, keychains and people, but nothing that comes
    and goes with the environment: a new colleague makes old rows stale, another shell does not."""
    unique = {(e.value, e.kind): e for e in (*exact, *keychains)}
    deny, allow = tuple(sorted(set(deny))), tuple(sorted(set(allow)))
    people = sorted(e.value for e in unique.values() if e.kind in ("person", "email"))
    listed = [deny, allow, people, *([sorted(e.value for e in keychains)] if keychains else [])]
    lists = hmac.new(key, json.dumps(listed).encode(), hashlib.sha256).hexdigest()[:8]
    return Policy(f"{rules_version()}-{lists}", key, tuple(unique.values()), deny, allow)


# --- exact values


def machine_values(environ: Mapping[str, str]) -> Iterator[Exact]:
    """User, host, git identity and the secrets in the environment of this machine."""
    for name in _users(environ):
        yield from exact_user(name)
    for host in {socket.gethostname(), socket.gethostname().partition(".")[0]}:
        if len(host) >= 5 and host.lower() not in _COMMON_HOSTS and not host.isdecimal():
            yield Exact(host, "host", fold=True)
    yield from _git_identity(Path.home())
    for name, value in environ.items():
        yield from _environment(name, value)


def _users(environ: Mapping[str, str]) -> set[str]:
    names = {environ.get(n, "") for n in ("USER", "LOGNAME", "SUDO_USER", "USERNAME")} | {Path.home().name}
    try:
        names.add(getpass.getuser())
    except (KeyError, OSError):
        names.discard("")
    return {n for n in names if n}


def _environment(name: str, value: str) -> Iterator[Exact]:
    """The value of a variable whose name says that it is secret; for an address, its password."""
    from .secrets import find

    if len(value) < 8 or len(value) > 4096:
        return
    parts = urlsplit(value) if "://" in value and "@" in value else None
    if parts is not None and parts.password and len(parts.password) >= 8:
        yield Exact(unquote(parts.password), "secret", word=False)
    if not key_strength(name) or is_placeholder(value) or is_code(value) or not looks_random(value):
        return
    if not find(value):
        yield Exact(value, "secret", word=False)


def town_values(town: Town) -> Iterator[Exact]:
    """The town's people and private hosts: overseer, accounts, git identities, authors, remotes."""
    overseer = _json(town.root / "mayor" / "overseer.json")
    yield from _person(str(overseer.get("name") or ""), str(overseer.get("email") or ""))
    yield from exact_user(str(overseer.get("username") or ""))
    accounts = _json(town.accounts_file).get("accounts")
    for account in accounts.values() if isinstance(accounts, dict) else ():
        if isinstance(account, dict):
            yield from _person("", str(account.get("email") or ""))
    for folder in _repositories(town):
        yield from _git_identity(folder)
        yield from _authors(folder)
        yield from _remotes(folder)


def _repositories(town: Town) -> list[Path]:
    found = [town.root] if (town.root / ".git").exists() else []
    for rig in town.rigs().values():
        places = [rig / "mayor" / "rig", rig / "refinery" / "rig", rig / ".repo.git", rig]
        found += [p for p in places if (p / ".git").exists() or (p / "HEAD").is_file()][:1]
    return found


def _person(name: str, email: str) -> Iterator[Exact]:
    if _BOT.search(name) or _BOT.search(email):
        return
    if name.lower() not in GENERIC_USERS:
        yield from exact_person(name)
    if "@" in email:
        yield Exact(email, "email", fold=True)
        yield from exact_user(email.partition("@")[0].partition("+")[0])


def _git(folder: Path, *args: str) -> list[str]:
    """Lines of a git command's output; none where git or the repository is not there, hangs or fails."""
    command = ["git", "-C", str(folder), *args]
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=_GIT_TIMEOUT, check=False, env=env)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.decode("utf-8", "replace").splitlines() if done.returncode == 0 else []


def _git_identity(folder: Path) -> Iterator[Exact]:
    if folder.is_dir():
        name, email = (next(iter(_git(folder, "config", k)), "") for k in ("user.name", "user.email"))
        yield from _person(name, email)


def _authors(folder: Path) -> Iterator[Exact]:
    lines = _git(folder, "log", "--all", "-n", "20000", "--format=%an%x00%ae%n%cn%x00%ce")
    for line in sorted(set(lines)):
        name, _, email = line.partition("\0")
        yield from _person(name, email)


def _remotes(folder: Path) -> Iterator[Exact]:
    for line in _git(folder, "config", "--get-regexp", r"^remote\..*\.(url|pushurl)$"):
        host = remote_host(line.partition(" ")[2])
        if host and host.lower() not in _PUBLIC_HOSTS:
            yield Exact(host, "host", fold=True)


def remote_host(url: str) -> str:
    """The host of a git remote, empty for a local path."""
    if "://" in url:
        return urlsplit(url).hostname or "" if not url.startswith("file:") else ""
    match = re.match(r"(?:[^@/\s]+@)?([A-Za-z0-9.-]{2,}):(?!\\)", url)
    return match[1] if match is not None and len(match[1]) > 1 else ""


def _json(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
