"""``gt prime``: the stock one, or for a deployed role the slim one made of it.

The real ``gt prime`` always runs, for what it does besides printing: it records the session, takes the
identity's lock, creates the patrol. While it runs (a second or more) our own modules and plugins load, so
that slimming adds almost nothing. Whatever fails on our side, the session gets its prime: the original, cut
by whole sections to what the client takes.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn, TypeVar

from .real import RealGt

if TYPE_CHECKING:
    from pathlib import Path

    from .budget import Deployed
    from .section import Section
    from .slim import SlimPrime

T = TypeVar("T")
Offer = Callable[[str], "list[Section]"]
"""From a stock prime to one plugin's sections for it."""
MAX_CHARS = 10_000
HELD = "GT_FT_HELD_"
_OURS = {"--hook", "--explain"}
_LIVE_WORDS = (
    "GAS TOWN",
    "Hooked Work",
    "ATTACHED",
    "AUTONOMOUS",
    "Patrol",
    "Handoff from",
    "HANDOFF COMPLETE",
    "Checkpoint",
    "<system-reminder>",
    "STARTUP PROTOCOL",
    "Directives",
    "ESCALATIONS",
    "PAUSED",
    "CURRENT STEP",
)


def main(args: Sequence[str]) -> int:
    """``gt prime ARGS``. Returns the exit code, or replaces this process by the real gt."""
    full = "--full" in args
    rest = [a for a in args if a != "--full"]
    if full or not set(rest) <= _OURS:
        exec_real(["prime", *rest])
    early = _early_start(rest)
    here = _deployed_here()
    if here is None and early is None:
        exec_real(["prime", *rest])
    real = early or _start(rest)
    return slim_prime(here, real, rest) if here else pass_on(real)


def _early_start(args: Sequence[str]) -> RealGt | None:
    """The real gt at work before our own modules are loaded, where the shim has seen that the role is
    deployed and no terminal is there that gt would colour its output for.

    Should it turn out to be off after all, what the real gt prints is passed on as it is."""
    gt = _recorded() if "GT_FINETUNE_SHIM" in os.environ and not os.isatty(1) else None
    return _start(args, gt) if gt and "--explain" not in args else None


def _recorded() -> str | None:
    """The first line of the shim's state: :func:`gt_plugins.town.gt.recorded_gt` without its imports."""
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    try:
        with open(f"{base}/gastown-finetune/shim.state", encoding="utf-8") as handle:
            path = handle.readline().rstrip("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return path if os.path.isabs(path) and os.path.isfile(path) and os.access(path, os.X_OK) else None


def _start(args: Sequence[str], gt: str | None = None) -> RealGt:
    """Start the real prime. Raises UserError where there is no gt."""
    if gt is None:
        from ..town.gt import real_gt

        gt = str(real_gt(None))
    return RealGt([gt, "prime", *(a for a in args if a != "--explain")], real_environ())


def _deployed_here() -> tuple[Deployed, Path] | None:
    """This session's deployment and town; None for everything that is to stay as gt has it."""
    try:
        from .budget import deployed_role, session_identity, session_town

        cwd = working_folder()
        town = session_town(os.environ, cwd)
        identity = session_identity(os.environ, cwd, town) if town else None
        found = deployed_role(town, identity) if town and identity else None
    except Exception as error:
        _say(f"{type(error).__name__}: {error}; the stock prime follows")
        return None
    return (found, town.root) if found and town else None


def working_folder() -> Path:
    """The working folder by the name the shell has for it, as gt takes it, where that name is true."""
    from pathlib import Path

    here, named = os.getcwd(), os.environ.get("PWD", "")
    try:
        return Path(named if os.path.isabs(named) and os.path.samefile(named, here) else here)
    except OSError:
        return Path(here)


def exec_real(args: Sequence[str]) -> NoReturn:
    """Become the real gt with these arguments. Raises UserError where there is none."""
    from ..town.gt import real_gt

    path = str(real_gt(None))
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec would hand that on
    os.execve(path, [path, *args], real_environ())


def real_environ() -> dict[str, str]:
    """The environment for the real gt: what a tuned session's wrapper put aside stands where it stood.

    gt hands some of it on to the agents it starts, and those are not ours."""
    held = {k[len(HELD) :]: v for k, v in os.environ.items() if k.startswith(HELD)}
    return {**{k: v for k, v in os.environ.items() if not k.startswith(HELD)}, **held}


def pass_on(real: RealGt) -> int:
    """What the real prime printed, as it is, and its exit code."""
    code, raw, _ = real.finish()
    _print(raw)
    return code


def slim_prime(here: tuple[Deployed, Path], real: RealGt, args: Sequence[str]) -> int:
    """Print the slim prime; the real one's exit code, and its output as it is, where it fails."""
    deployed, town = here
    nobody: list[Offer] = []
    extra = guarded("plugins", lambda: offered_sections(deployed, town), nobody)
    guarded("slimming", lambda: _load_while(lambda: not real.ended()), None)
    code, raw, err = real.finish()
    out, warning = raw.decode("utf-8", "replace"), _database_warning(err)
    if code != 0 or not out.strip():
        _print(raw)
        return code
    prime = guarded("slimming", lambda: _make(deployed, out, warning, extra), None)
    if prime is None:
        _print(cut_prime(out).encode())
        return 0
    _print(f"{prime.text}\n".encode("utf-8", "replace"))
    if "--explain" in args:
        print(prime.explain(), file=sys.stderr if "--hook" in args else sys.stdout)
    return 0


def _load_while(busy: Callable[[], bool]) -> None:
    """Import what slimming needs while the real gt works; a short prime needs the first of these only."""
    import importlib

    for name in ("slim", "prose", "parse", "live", "stock"):
        if busy():
            importlib.import_module(f"{__package__}.{name}")


def _database_warning(err: str) -> str:
    """What gt says on stderr where it cannot tell what is hooked: a hook's stderr reaches no model."""
    start = err.find("## ⚠️  DATABASE ERROR")
    return err[start:].split("\n\n", 1)[0] if start >= 0 else ""


def _make(deployed: Deployed, out: str, warning: str, extra: Sequence[Offer]) -> SlimPrime:
    from .slim import slim

    offered = [section for offer in extra for section in offer(out)]
    text = f"{warning}\n\n{out}" if warning else out
    return slim(text, deployed.role, tokens=deployed.tokens, rules=deployed.rules, extra=offered)


def offered_sections(deployed: Deployed, town: Path | None) -> list[Offer]:
    """One function per third-party plugin: its sections for a stock prime. :func:`slim` itself has ours."""
    if not third_parties():
        return []
    from ..plugins import plugin_manager
    from . import sections

    found: list[Offer] = []
    for impl in reversed(plugin_manager().hook.gt_prime_sections.get_hookimpls()):
        if impl.plugin is not sections and not (impl.hookwrapper or impl.wrapper):
            found.append(_offer(impl.plugin_name, impl.function, impl.argnames, deployed, town))
    return found


def third_parties() -> bool:
    """Whether a package may be installed that has plugins for us.

    Loading the plugin manager takes longer than a short ``gt prime``, and most towns have none: so look for
    our group's name in what is installed first, a millisecond's work."""
    if os.environ.get("GT_PLUGINS_LOAD") == "":
        return False
    for folder in sys.path:
        try:
            names = [
                e.path for e in os.scandir(folder or ".") if e.name.endswith((".dist-info", ".egg-info"))
            ]
        except NotADirectoryError:
            return True
        except OSError:
            continue
        for name in names:
            try:
                with open(f"{name}/entry_points.txt", "rb") as handle:
                    if b"[gt_plugins]" in handle.read():
                        return True
            except OSError:
                continue
    return False


def _offer(
    name: str,
    call: Callable[..., object],
    wants: Sequence[str],
    deployed: Deployed,
    town: Path | None,
) -> Offer:
    """A plugin's sections, none where it fails."""
    from pathlib import Path

    from .section import PrimeContext

    def offer(prime: str) -> list[Section]:
        ctx = PrimeContext(deployed.role, prime, deployed.rules, deployed.tokens, town, Path.cwd())
        nothing: list[Section] = []
        return guarded(name, lambda: _checked(call(*(ctx for _ in wants))), nothing)

    return offer


def _checked(offered: object) -> list[Section]:
    from .section import Section

    if offered is None:
        return []
    if not isinstance(offered, list | tuple):
        raise TypeError(f"gt_prime_sections returned {type(offered).__name__}, not a list of sections")
    for section in offered:
        if not isinstance(section, Section) or not all(isinstance(u, str) for u in section.units):
            raise TypeError(f"{type(section).__name__} is no gt_plugins.prime.sections.Section of text")
    return list(offered)


def cut_prime(text: str, limit: int = MAX_CHARS) -> str:
    """A prime cut to ``limit`` characters by whole sections, with a line that says so.

    Sections with live facts are kept first; what is kept stays in its order."""
    if len(text) <= limit:
        return text
    blocks = _sections(text)
    note = "[gt prime, cut: {} of {} sections ({} characters) left out; `gt prime --full` prints all]\n"
    room = limit - len(note) - 20
    order = sorted(range(len(blocks)), key=lambda i: not any(w in blocks[i] for w in _LIVE_WORDS))
    kept: set[int] = set()
    for index in order:
        if len(blocks[index]) <= room:
            kept.add(index)
            room -= len(blocks[index])
    body = "".join(blocks[i] for i in sorted(kept)) or _whole_lines(blocks[0], room)
    told = note.format(len(blocks) - len(kept), len(blocks), len(text) - len(body))
    return told + body


def _whole_lines(text: str, room: int) -> str:
    """The first lines of a text that is one section; of a single line its beginning."""
    return text[: text.rfind("\n", 0, room) + 1] or text[:room]


def _sections(text: str) -> list[str]:
    """A text in pieces that each begin with a heading, the metadata line or a reminder."""
    pieces: list[str] = []
    fenced = False
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        opens = line.startswith(("#", "<system-reminder>", "**STARTUP", "GAS TOWN", "[GAS TOWN]"))
        if (opens and not fenced) or not pieces:
            pieces.append(line)
        else:
            pieces[-1] += line
    return pieces


def guarded(what: str, call: Callable[[], T], otherwise: T) -> T:
    """What ``call`` gives, or ``otherwise`` and one line on stderr where it raises."""
    try:
        return call()
    except Exception as error:
        _say(f"{what}: {type(error).__name__}: {error}".replace("\n", " ")[:300])
        return otherwise


def _say(message: str) -> None:
    print(f"gt prime: {message}", file=sys.stderr)


def _print(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
