"""The wrapper: a POSIX-sh file named ``claude`` that gt starts for a deployed role.

A healthy endpoint and a role that is switched on: the real client with our settings. Anything else (off, a
deploy at work, a dead endpoint, a settings file that cannot be made): the real client with exactly the
arguments gt gave, that is the stock agent, so that the watchers never die together. Command and arguments
are all that survives ``gt handoff`` and the daemon's restarts, so everything is in this one file.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from ..town.gt import shim_dir
from ..town.roles import TOWN_LEVEL
from ..town.root import Town
from .client_settings import HELD, HELD_PREFIX, gt_settings_path
from .deployed import CHANGING, OFF, WRAPPER, Deployment, client_model, role_dir

PROBE_SECONDS = 0.3
_REPLACED = ("--settings", "--model", "--fallback-model", "--setting-sources", "--system-prompt")
"""Options of the client that take one value and that ours stand in for."""

_HEAD = """\
#!/bin/sh
# gastown-finetune wrapper: gt starts this in place of the agent client for the role {role}.
# `gt model off {role}` or `gt model rollback --role {role}` gives the stock agent back.
ft_here={here}
ft_town={town}
ft_shims={shims}
ft_recorded={client}
ft_url={url}
ft_python={python}
ft_model={model}
"""

_BODY = r"""
# The real client: as the stock agent would find it, else where it was at the deploy.
find_client() {
    ft_rest=$PATH:
    while [ -n "$ft_rest" ]; do
        ft_folder=${ft_rest%%:*} ft_rest=${ft_rest#*:}
        ft_client=${ft_folder:-.}/claude
        case $ft_client in */.finetune/*/claude) continue ;; esac
        if [ -f "$ft_client" ] && [ -x "$ft_client" ]; then return 0; fi
    done
    for ft_client in "$ft_recorded" "${HOME:-}/.claude/local/claude"; do
        if [ -f "$ft_client" ] && [ -x "$ft_client" ]; then return 0; fi
    done
    echo "claude: the agent client is not on PATH (this is gastown-finetune's wrapper $0)" >&2
    exit 127
}

note() {
    { printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$1" >>"$ft_here/starts.log"; } 2>/dev/null || :
}

stock() {
    note "stock: $ft_reason"
    GT_FINETUNE_STOCK=1
    export GT_FINETUNE_STOCK
    exec "$ft_client" "$@"
}

# Does our endpoint answer, for this role's model, in time? Nothing secret is sent before that is known.
healthy() {
    if command -v curl >/dev/null 2>&1; then
        ft_answer=$(curl -q -fs --noproxy '*' --max-time @SECONDS@ "$ft_url/health" 2>/dev/null) || return 1
    else
        ft_answer=$("$ft_python" -I -S -c '
import socket, sys
host, port = sys.argv[1].rpartition("/")[2].split(":")
with socket.create_connection((host, int(port)), @SECONDS@) as s:
    s.settimeout(@SECONDS@)
    s.sendall(b"GET /health HTTP/1.0\r\nHost: " + host.encode() + b"\r\n\r\n")
    data = b""
    while chunk := s.recv(65536):
        data += chunk
head, _, body = data.partition(b"\r\n\r\n")
sys.exit(1) if b" 200" not in head[:16] else sys.stdout.write(body.decode())
' "$ft_url" 2>/dev/null) || return 1
    fi
    case $ft_answer in *"\"$ft_model\""*) return 0 ;; esac
    return 1
}

# Our settings follow gt's: they are made anew when gt's file is not the one they were made from.
fresh() {
    [ -f "$ft_settings" ] || return 1
    [ -f "$ft_theirs" ] || return 0
    [ "$(cksum <"$ft_theirs")" = "$(cat "$ft_settings.from" 2>/dev/null)" ]
}

case $PATH in "$ft_shims" | "$ft_shims":*) ;; *) [ ! -d "$ft_shims" ] || PATH=$ft_shims:$PATH ;; esac
export PATH
find_client
@RIG@
ft_reason=''
if [ -e "$ft_here/@OFF@" ]; then ft_reason='switched off'
elif [ -e "$ft_here/@CHANGING@" ]; then ft_reason='a deploy is at work'
elif [ ! -f "$ft_here/role.json" ]; then ft_reason='rolled back'
elif ! healthy; then ft_reason='the endpoint does not answer'
elif ! fresh && ! "$ft_python" -m gt_plugins.rollout.refresh "$ft_town" @ROLE@ "$ft_rig" >/dev/null 2>&1; then
    ft_reason='its settings could not be made'
elif ! ft_system=$(cat "$ft_here/system.txt" 2>/dev/null); then ft_reason='its system prompt is gone'
fi
[ -z "$ft_reason" ] || stock "$@"
note tuned
unset GT_FINETUNE_STOCK

# gt's arguments without those that ours stand in for; the last one, the prompt, is never looked at.
ft_left=$#
while [ "$ft_left" -gt 0 ]; do
    ft_word=$1 ft_left=$((ft_left - 1))
    shift
    if [ "$ft_left" -gt 0 ]; then
        case $ft_word in
        @REPLACED@)
            shift
            ft_left=$((ft_left - 1))
            continue
            ;;
        @ASSIGNED@) continue ;;
        esac
    fi
    set -- "$@" "$ft_word"
done

# Kept for the agents started from within this session: our gt shim gives these back to the real gt.
@HELD@
if [ -n "${HTTP_PROXY:-}${http_proxy:-}${HTTPS_PROXY:-}${https_proxy:-}${ALL_PROXY:-}${all_proxy:-}" ]; then
    NO_PROXY=127.0.0.1,localhost${NO_PROXY:+,$NO_PROXY}
    no_proxy=$NO_PROXY
    export NO_PROXY no_proxy
fi
exec "$ft_client" --model "$ft_model" --setting-sources user --settings "$ft_settings" --tools @TOOLS@ \
    --strict-mcp-config --disable-slash-commands --system-prompt "$ft_system" "$@"
"""

_TOWN_RIG = """\
ft_rig=''
ft_settings=$ft_here/settings.json
ft_theirs={theirs}
"""
_RIG_RIG = """\
ft_rig=${{GT_RIG:-}}
if [ -z "$ft_rig" ]; then case ${{GT_ROLE:-}} in */*) ft_rig=${{GT_ROLE%%/*}} ;; esac; fi
case $ft_rig in '' | */* | .*)
    ft_rig=''
    ft_settings=$ft_here/settings.json
    ft_theirs=''
    ;;
*)
    ft_settings=$ft_here/settings-$ft_rig.json
    ft_theirs=$ft_town/$ft_rig/{folder}/.claude/settings.json
    ;;
esac
"""


def script(town: Town, deployment: Deployment, tools: tuple[str, ...] = ("Bash",)) -> str:
    """The wrapper's text for a deployed role."""
    role = deployment.role
    values = {
        "role": role,
        "here": shlex.quote(str(role_dir(town, role))),
        "town": shlex.quote(str(town.root)),
        "shims": shlex.quote(str(shim_dir())),
        "client": shlex.quote(deployment.client),
        "url": shlex.quote(deployment.url),
        "python": shlex.quote(sys.executable),
        "model": shlex.quote(client_model(role)),
    }
    held = [f'[ -z "${{{n}:-}}" ] || export {HELD_PREFIX}{n}="${n}"' for n in HELD]
    body = _BODY
    for name, text in {
        "SECONDS": str(PROBE_SECONDS),
        "RIG": _rig_part(town, role),
        "OFF": OFF,
        "CHANGING": CHANGING,
        "ROLE": shlex.quote(role),
        "REPLACED": " | ".join(_REPLACED),
        "ASSIGNED": " | ".join(f"{option}=*" for option in _REPLACED),
        "HELD": "\n".join(held),
        "TOOLS": shlex.quote(",".join(tools)),
    }.items():
        body = body.replace(f"@{name}@", text)
    return _HEAD.format(**values) + body


def _rig_part(town: Town, role: str) -> str:
    if role in TOWN_LEVEL:
        return _TOWN_RIG.format(theirs=shlex.quote(str(gt_settings_path(town, role, None)))).rstrip()
    folder = gt_settings_path(town, role, "rig").parent.parent.name
    return _RIG_RIG.format(folder=folder).rstrip()


def find_client(search: str | None = None) -> Path | None:
    """The real client on PATH (or ``search``), never a wrapper of ours; None where there is none."""
    for folder in (os.environ.get("PATH", "") if search is None else search).split(os.pathsep):
        path = Path(folder or ".").absolute() / WRAPPER
        if path.parent.parent.name == ".finetune":
            continue
        if path.is_file() and os.access(path, os.X_OK):
            return path
    local = Path.home() / ".claude" / "local" / WRAPPER
    return local if local.is_file() and os.access(local, os.X_OK) else None


def shell() -> str:
    """The shell that runs the wrapper, for messages and tests."""
    return shutil.which("sh") or "/bin/sh"
