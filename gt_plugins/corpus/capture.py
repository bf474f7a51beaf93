"""What ``gt-hook session-end`` does: note that a session ended, start a worker, return.

The whole process has 50 ms, so this module uses the standard library alone, imports it sparingly and does
not use the rooms (``durable`` alone costs 8 ms). It never opens a transcript. The note in
``<town>/.corpus/spool`` holds a path, ids and a time, never text. It is written atomically but not fsynced:
after a power cut the sweep of the client's projects folder finds the session without it.

Nothing here may disturb the session that calls: no output, no exception, no waiting on a stdin that the
client does not close. Trouble goes to ``<town>/.corpus/hook.log``, without anything from the payload.
"""

import os
import sys
import time

STDIN_SECONDS = 0.3
STDIN_BYTES = 1 << 20
LOG_BYTES = 1 << 20
_SPACE = " \t\r\n"


def session_end() -> None:
    """Read the client's payload from stdin and spool it. Never raises, never prints."""
    root = ""
    try:
        _silence()
        payload = read_payload(0)
        root = town_of(_cwd(payload))
        if root and may_capture(root, _cwd(payload)):
            enqueue(root, payload)
            if not worker_is_running(root):
                start_worker(root)
    except Exception as error:
        note_trouble(root, error)


def read_payload(fd: int, seconds: float = STDIN_SECONDS) -> dict:
    """One JSON object from ``fd``, as soon as it is complete; ValueError if it does not come in time."""
    import select

    deadline = time.monotonic() + seconds
    data = b""
    while len(data) < STDIN_BYTES:
        wait = deadline - time.monotonic()
        if wait <= 0 or not select.select([fd], [], [], wait)[0]:
            break
        piece = os.read(fd, 65536)
        data += piece
        if not piece or data.rstrip().endswith(b"}"):
            try:
                return _object(_loads(data.decode("utf-8")))
            except (Incomplete, UnicodeDecodeError):
                if not piece:
                    break
    raise ValueError("no complete JSON object on stdin")


class Incomplete(ValueError):
    """No JSON, or not all of it yet."""


class _Plainly:
    """How json itself reads: what its C scanner wants to know."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = parse_constant = float
    parse_int = int


def _loads(text: str) -> object:
    """``json.loads`` by the C scanner beneath it: importing json takes 15 ms, for what its Python part needs.

    Raises Incomplete where the text is no JSON or only begins as such."""
    start = len(text) - len(text.lstrip(_SPACE))
    try:
        value, end = _scanner()(text, start)
    except (ValueError, StopIteration):
        raise Incomplete("not JSON") from None
    if text[end:].strip(_SPACE):
        raise Incomplete("more than one JSON value")
    return value


def _scanner():
    """A function of a text and a place in it, that gives the JSON value there and where it ends."""
    try:
        from _json import make_scanner
    except ImportError:  # another Python than CPython
        from json import JSONDecoder

        return JSONDecoder().raw_decode
    return make_scanner(_Plainly)  # type: ignore[arg-type]


def _dumps(record: dict[str, object]) -> str:
    """``json.dumps`` of a flat record, without importing json."""
    try:
        from _json import encode_basestring_ascii as quoted
    except ImportError:
        from json import dumps

        return dumps(record)
    parts = (f"{quoted(k)}: {quoted(v) if isinstance(v, str) else v}" for k, v in record.items())
    return "{" + ", ".join(parts) + "}"


def _object(value: object) -> dict:
    if not isinstance(value, dict):
        raise ValueError("stdin is not a JSON object")
    return value


def town_of(cwd: str) -> str:
    """The town in whose folder ``cwd`` lies: the outermost, as gt has it; empty where there is none.

    GT_TOWN_ROOT and GT_ROOT help only where the way up does not show it (a symbolic link).
    """
    if not os.path.isabs(cwd):
        return ""
    found, folder = "", os.path.normpath(cwd)
    while True:
        if _is_town(folder):
            found = folder
        above = os.path.dirname(folder)
        if above == folder:
            break
        folder = above
    if found:
        return found
    for variable in ("GT_TOWN_ROOT", "GT_ROOT"):
        root = os.environ.get(variable, "")
        if root and _is_town(root) and _inside(os.path.realpath(cwd), os.path.realpath(root)):
            return os.path.abspath(root)
    return ""


def _is_town(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, "mayor", "town.json"))


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


class BadSettings(ValueError):
    """The settings are not what they have to be, so that nobody can tell what may be captured."""


def may_capture(root: str, cwd: str) -> bool:
    """Whether consent is granted and the rig of ``cwd`` not excluded. Raises where the settings are no TOML,
    and BadSettings where something in them is unknown or of the wrong type."""
    path = os.path.join(root, "settings", "finetune.toml")
    try:
        with open(path, "rb") as handle:
            text = handle.read()
    except FileNotFoundError:
        return False
    if b"granted" not in text:
        return False
    if plainly_granted(text):
        return True
    import tomllib

    from ..settings_keys import slip

    settings = tomllib.loads(text.decode("utf-8"))
    found = slip(settings)
    if found:
        raise BadSettings(f"settings/finetune.toml: {found[0]}: {found[1]}")
    if not settings.get("consent", {}).get("granted"):
        return False
    for base, folder in ((cwd, root), (os.path.realpath(cwd), os.path.realpath(root))):
        if _inside(base, folder):
            rig = os.path.relpath(base, folder).split(os.sep)[0]
            return rig not in settings.get("capture", {}).get("exclude_rigs", [])
    return True


def plainly_granted(text: bytes) -> bool:
    """True where the settings say so in the form in which we write them, and nothing in the tables on privacy
    needs a closer look.

    Importing tomllib takes 7 ms; whatever is not as plain as this is left to it. The worker reads the
    settings properly before it captures anything."""
    from ..settings_keys import PRIVACY, TABLES

    if any(mark in text for mark in (b'"""', b"'''")):
        return False
    table, seen = "", {""}
    for raw in text.splitlines():
        line = raw.strip().decode("utf-8", "replace")
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            table = line[1:-1]
            if table not in TABLES or table in seen:
                return False
            seen.add(table)
        elif table == "consent":
            key = line.partition(" = ")[0]
            if f"consent.{key}" in seen or not (line == "granted = true" or key in ("by", "at")):
                return False
            seen.add(f"consent.{key}")
        elif table in ("", *PRIVACY):
            return False
    return "consent.granted" in seen


def enqueue(root: str, payload: dict) -> str:
    """Write one spool file and return its path."""
    spool = _own_folders(root)
    session = _text(payload, "session_id")
    record = {
        "v": 1,
        "path": _text(payload, "transcript_path"),
        "session_id": session,
        "cwd": _cwd(payload),
        "reason": _text(payload, "reason"),
        "gt_role": os.environ.get("GT_ROLE", ""),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    name = f"{time.time_ns()}-{os.getpid()}.json"
    path, temporary = os.path.join(spool, name), os.path.join(spool, f".{name}.tmp")
    _write(temporary, _dumps(record).encode(), os.O_EXCL)
    os.replace(temporary, path)
    return path


def _own_folders(root: str) -> str:
    """``.corpus/spool``, both 0700 and kept out of git; the same as ``Town.own_dir`` makes."""
    corpus = os.path.join(root, ".corpus")
    spool = os.path.join(corpus, "spool")
    for folder in (corpus, spool):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            continue
        os.chmod(folder, 0o700)
    ignore = os.path.join(corpus, ".gitignore")
    if not os.path.exists(ignore):
        _write(ignore, b"*\n", 0)
    return spool


def _write(path: str, data: bytes, flags: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600)
    try:
        os.fchmod(fd, 0o600)
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def worker_is_running(root: str) -> bool:
    """True while a sweep holds the lock: it looks at the spool again after it lets go."""
    import fcntl

    try:
        fd = os.open(os.path.join(root, ".corpus", "sweep.lock"), os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(fd)


def start_worker(root: str) -> None:
    """Start ``gt-corpus sweep --spool-only --quiet`` in a session of its own, so that it outlives this one.

    ``-P`` keeps the session's working folder, which is not ours, off the module path.
    """
    arguments = ["-P", "-m", "gt_plugins.cli.corpus", "sweep", "--town", root, "--spool-only", "--quiet"]
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.closerange(3, 256)
        os.chdir(root)
        os.nice(10)
        os.execv(sys.executable, [sys.executable, *arguments])
    finally:
        os._exit(127)


def note_trouble(root: str, error: BaseException) -> None:
    """One line in hook.log: when, what kind of error and where; no text of the payload."""
    folder = os.path.join(root, ".corpus")
    if not root or not os.path.isdir(folder):
        return
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    what = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
    if isinstance(error, BadSettings):
        what = str(error)
    path = os.path.join(folder, "hook.log")
    try:
        if os.path.exists(path) and os.path.getsize(path) > LOG_BYTES:
            os.replace(path, path + ".1")
        _write(path, f"{at} session-end: {what}\n".encode(), os.O_APPEND)
    except OSError:
        return


def _silence() -> None:
    """Send stdout and stderr to nowhere: what a hook prints here would reach the operator's terminal."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def _cwd(payload: dict) -> str:
    return _text(payload, "cwd") or os.getcwd()


def _text(payload: dict, key: str) -> str:
    value = payload.get(key)
    return value if isinstance(value, str) else ""
