"""The command line: exit codes, one line of error, one JSON document; doctor, schedule, shellenv, init."""

from __future__ import annotations

import dataclasses
import http.server
import json
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gt_plugins.attach import schedule, shim
from gt_plugins.corpus.artifacts import DEFAULT_SPECS
from gt_plugins.errors import UserError
from gt_plugins.settings import load_settings
from gt_plugins.town import gt
from gt_plugins.town.root import Town

CONSENT = ("--yes", "--consent-by", "Ann")


def plugins(*args: str, town: Town | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gt_plugins.cli.plugins", *args]
    if town is not None:
        command += ["--town", str(town.root)]
    return subprocess.run(
        command,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with a real gt, and neither bd, dolt nor client."""
    folder = script(tmp_path / "tools" / "gt", "echo gt version 1.0.1").parent
    monkeypatch.setenv("PATH", f"{gt.shim_dir()}:{folder}:/usr/bin:/bin")
    return folder


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "no terminal to ask for consent on; pass --yes --consent-by NAME"),
        (("--yes",), "--yes needs --consent-by NAME"),
        (("--yes", "--consent-by", "  "), "--yes needs --consent-by NAME"),
        (("--consent-by", "Ann"), "no terminal"),
    ],
)
def test_install_needs_somebody_who_consents(town: Town, args: tuple[str, ...], said: str):
    done = plugins("install", *args, town=town)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and said in done.stderr and done.stderr.count("\n") == 1
    assert not town.finetune_dir.exists() and not load_settings(town).consent.granted


@pytest.mark.parametrize(
    ("typed", "code", "granted"), [("Ann\ny\n", 0, True), ("Ann\nn\n", 2, False), ("\n", 2, False)]
)
def test_install_asks_on_a_terminal(town: Town, typed: str, code: int, granted: bool):
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "gt_plugins.cli.plugins", "install", "--json", "--town", str(town.root)]
    process = subprocess.Popen(
        command, stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    os.close(follower)
    os.write(leader, typed.encode())
    out, err = process.communicate(timeout=60)
    os.close(leader)
    assert process.returncode == code, err
    assert "SessionEnd hook" in err and load_settings(town).consent.granted is granted
    assert bool(out) is granted, "questions are asked on stderr"
    if granted:
        assert json.loads(out)["done"] and load_settings(town).consent.by == "Ann"


def test_the_way_from_install_to_uninstall(town: Town):
    done = plugins("install", *CONSENT, "--json", town=town)
    assert done.returncode == 0, done.stderr
    assert any("SessionEnd hook" in line for line in json.loads(done.stdout)["done"])
    assert plugins("install", town=town).returncode == 0, "consent that is recorded is not asked for again"
    assert subprocess.run(["gt", "version"], capture_output=True, text=True).stdout == "gt version 1.0.1\n"
    healthy = plugins("doctor", "--json", town=town)
    document = json.loads(healthy.stdout)
    assert healthy.returncode == 0 and document["ok"], document
    states = {c["name"]: c["status"] for c in document["checks"]}
    assert (
        states["gt"] == states["shim"] == states["path"] == states["session-end"] == states["consent"] == "ok"
    )
    assert states["bd"] == states["client"] == "warn"
    assert plugins("uninstall", town=town).returncode == 0
    gone = plugins("doctor", town=town)
    assert (
        gone.returncode == 1 and "not installed here" in gone.stdout and "→ gt-plugins install" in gone.stdout
    )
    assert "--fix" not in gone.stdout, "which mends only what was installed"


def test_doctor_tells_a_tool_that_fails_from_one_that_answers(town: Town, tools: Path):
    script(tools / "bd", "echo out of order >&2; exit 1")
    script(tools / "tmux", "echo tmux 3.3")
    found = {c["name"]: c for c in json.loads(plugins("doctor", "--json", town=town).stdout)["checks"]}
    assert (found["bd"]["status"], found["bd"]["detail"]) == ("warn", "bd: out of order")
    assert found["tmux"]["status"] == "ok"


def test_errors_are_one_line_with_the_file(town: Town, tmp_path: Path, isolated: Path):
    (isolated / ".claude").mkdir()
    (isolated / ".claude/settings.json").write_text('{\n "hooks": {\n}')
    done = plugins("install", *CONSENT, town=town)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "settings.json: line 3: not JSON" in done.stderr
    nowhere = plugins("doctor", town=Town(tmp_path))
    assert nowhere.returncode == 2 and "no Gas Town" in nowhere.stderr


DAMAGE = {
    "shim": lambda town, home: shim.shim_path().write_text("#!/bin/sh\n"),
    "shim mode": lambda town, home: shim.shim_path().chmod(0o600),
    "shim gone": lambda town, home: shim.shim_path().unlink(),
    "state": lambda town, home: gt.shim_state().write_text("/gone/gt\n/gone/python\n/gone\n"),
    "hook": lambda town, home: (home / ".claude/settings.json").write_text("{}"),
    "other hook": lambda town, home: (home / ".claude/settings.json").write_text(
        (home / ".claude/settings.json").read_text().replace("gt-hook", "gt-hook-old")
    ),
    "formula": lambda town, home: (town.formulas_dir / "eval-suite.formula.toml").unlink(),
    "mode": lambda town, home: (town.finetune_dir).chmod(0o755),
    "file mode": lambda town, home: (town.finetune_dir / "install.json").chmod(0o644),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_doctor_finds_each_damage_and_mends_it(town: Town, isolated: Path, damage: str):
    from gt_plugins.attach import doctor
    from gt_plugins.attach.install import install
    from gt_plugins.attach.uninstall import uninstall

    install(town, "Ann")
    assert not [c for c in doctor.examine(town) if c.status == "fail"]
    DAMAGE[damage](town, isolated)
    failed = [c for c in doctor.examine(town) if c.status == "fail"]
    assert failed and all(c.mend for c in failed)
    assert doctor.mend(town)
    assert not [c for c in doctor.examine(town) if c.status == "fail"]
    uninstall(town)
    assert not town.finetune_dir.exists() and not gt.attach_home().exists()


def test_doctor_fix_does_not_attach_to_a_town_that_nobody_installed_to(town: Town):
    done = plugins("doctor", "--fix", "--json", town=town)
    assert done.returncode == 1 and json.loads(done.stdout)["mended"] == []
    assert not town.finetune_dir.exists() and not shim.shim_path().exists()


def test_doctor_fix_grants_no_consent(town: Town):
    from gt_plugins.settings import update_settings

    plugins("install", *CONSENT, town=town)
    update_settings(town, "consent", granted=False, by="Bob")
    shim.shim_path().unlink()
    assert plugins("doctor", "--fix", town=town).returncode == 0
    assert shim.shim_path().exists() and not load_settings(town).consent.granted


def test_doctor_tells_of_no_gt_a_hanging_tool_and_broken_settings(
    town: Town, tools: Path, isolated: Path, monkeypatch: pytest.MonkeyPatch
):
    from gt_plugins.attach import doctor

    (tools / "gt").unlink()
    script(tools / "tmux", "sleep 30")
    script(tools / "bd", "echo bd version 1.0.0; exit 1")
    (isolated / ".claude").mkdir()
    (isolated / ".claude/settings.json").write_text("{oops")
    town.settings_file.write_text("[gate]\nthreshold = 7\n")
    monkeypatch.setattr(doctor, "ASK_SECONDS", 0.3)
    found = {c.name: c for c in doctor.examine(town)}
    assert found["gt"].status == "fail" and "no real gt" in found["gt"].detail
    assert (found["tmux"].status, found["tmux"].detail) == ("warn", "tmux: no answer in 0.3 s")
    assert (found["bd"].status, found["bd"].detail) == ("warn", "bd: bd version 1.0.0"), "it ended with 1"
    assert found["session-end"].status == "fail" and "line 1" in found["session-end"].detail
    assert found["consent"].status == "fail" and "gate.threshold" in found["consent"].detail


def test_doctor_looks_at_deployed_roles_and_their_endpoint(town: Town):
    from gt_plugins.attach import doctor

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            return

    role = town.own_dir(town.finetune_dir / "deacon")
    script(role / "claude", "exit 0").chmod(0o700)
    (role / "role.json").write_text("{}")
    (role / "fence.toml").write_text("")
    (role / "settings.json").write_text("{}")

    def look() -> tuple[str, str]:
        check = next(c for c in doctor.examine(town) if c.name == "role deacon")
        return check.status, check.detail

    assert look() == ("warn", f"{role / 'settings.json'}: no endpoint")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    (role / "settings.json").write_text(json.dumps({"env": {"ANTHROPIC_BASE_URL": url}}))
    try:
        assert look() == ("ok", f"{url} answers (200)")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert look()[0] == "warn" and "the stock agent runs instead" in look()[1]
    (role / "fence.toml").unlink()
    assert look()[0] == "fail"


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh"])
def test_shellenv_puts_the_shim_first_once(shell: str, isolated: Path, tmp_path: Path):
    line = plugins("shellenv", SHELL=f"/bin/{shell}", XDG_DATA_HOME=str(tmp_path / "a b'c")).stdout
    folder = tmp_path / "a b'c" / "gastown-finetune" / "bin"
    done = subprocess.run(
        ["sh", "-c", f'PATH=/usr/bin:/bin\n{line}\n{line}\necho "$PATH"'], capture_output=True, text=True
    )
    assert done.stdout == f"{folder}:/usr/bin:/bin\n"


def test_shellenv_for_fish_and_for_nobody(isolated: Path):
    assert plugins("shellenv", "--shell", "fish").stdout.startswith("fish_add_path")
    assert plugins("shellenv", SHELL="/usr/bin/fish").stdout.startswith("fish_add_path")
    assert plugins("shellenv", "--shell", "csh").returncode == 2


def test_init_adds_what_is_missing_and_keeps_what_is_there(town: Town):
    own = '# mine\n[consent]\ngranted = true\nby = "Ann"\n\n[gate]\nthreshold = 0.95\n'
    town.settings_file.write_text(own)
    said = plugins("init", town=town).stdout
    text = town.settings_file.read_text()
    assert text.startswith(own) and "[capture], [scrub], [collect], [outcomes], [prime], [rollout]" in said
    assert "# exclude_rigs = []" in text and text.count("[gate]") == 1
    settings = load_settings(town)
    assert settings.consent.granted and settings.threshold == 0.95
    assert "not changed" in plugins("init", town=town).stdout and town.settings_file.read_text() == text


def test_a_slip_in_what_may_be_stored_is_refused(town: Town):
    for text, told in (
        (
            '[capture]\nexclude_rgs = ["demo"]\n',
            "capture.exclude_rgs: not a key of this table; known: exclude_rigs",
        ),
        ('[scrub]\ndenied = ["Falcon"]\n', "scrub.denied: not a key of this table; known: deny, allow"),
        ('[scrubb]\ndeny = ["Falcon"]\n', "scrubb: no such table; do you mean [scrub]?"),
    ):
        town.settings_file.write_text(text)
        with pytest.raises(UserError) as error:
            load_settings(town)
        assert told in str(error.value) and str(town.settings_file) in str(error.value)
    town.settings_file.write_text('[weather]\nplace = "a third party\'s"\n')
    assert load_settings(town).raw["weather"]


def test_init_writes_settings_that_say_what_holds_anyway(town: Town):
    plain = load_settings(town)
    assert "written" in plugins("init", town=town).stdout
    written = load_settings(town)
    assert (written.threshold, written.prime_tokens, written.consent) == (
        plain.threshold,
        plain.prime_tokens,
        plain.consent,
    )
    text = town.settings_file.read_text()
    assert "not changed" in plugins("init", town=town).stdout and town.settings_file.read_text() == text
    used = re.sub(r"(?m)^# (\w+ = )", r"\1", text)
    town.settings_file.write_text(used)
    active = load_settings(town)
    tables = {"capture", "scrub", "collect", "outcomes", "gate", "prime", "rollout"}
    assert set(active.raw) == tables and all(active.raw.values())
    assert active.raw["collect"]["specs"] == list(DEFAULT_SPECS)
    assert dataclasses.replace(active, raw={}) == dataclasses.replace(plain, raw={})


def test_schedule_prints_a_crontab_line_where_systemd_runs_no_timers(town: Town, tools: Path):
    script(tools / "systemctl", "echo no bus >&2; exit 1")
    path = f"{tools}:{os.environ['PATH']}"
    assert plugins("schedule", town=town, PATH=path).returncode == 2, "only where something is installed"
    plugins("install", *CONSENT, town=town)
    done = plugins("schedule", "--every", "20", town=town, PATH=path)
    assert done.stdout.splitlines()[1] == (
        f"*/20 * * * * {Path(sys.executable).parent}/gt-corpus sweep --town {town.root} >/dev/null 2>&1"
    )
    sweep, collect, audit = schedule.crontab_lines(town, 180)
    assert f"47 3 * * * {Path(sys.executable).parent}/gt-corpus collect --town {town.root} >" in collect
    assert sweep.startswith("0 */3 * * * ") and audit.startswith("17 4 * * 1 ")
    assert f"gt-corpus audit --town {town.root} --since 7d --quiet >" in audit
    odd = schedule.crontab_lines(Town(Path("/a b/100%")), 5)
    assert all(line.split("--town ")[1].startswith("'/a b/100\\%'") for line in odd)


def test_schedule_sets_a_timer_up_and_takes_it_back(town: Town, tools: Path, isolated: Path):
    script(tools / "systemctl", f'echo "$*" >> {isolated}/calls')
    path = f"{tools}:{os.environ['PATH']}"
    plugins("install", *CONSENT, town=town)
    assert "nothing" not in plugins("schedule", "--print", town=town, PATH=path).stdout
    units = isolated / ".config/systemd/user"
    assert not units.exists()
    assert plugins("schedule", town=town, PATH=path).returncode == 0
    name = schedule.unit_name(town)
    collect, audit = (schedule.unit_name(town, job) for job in (schedule.COLLECT, schedule.AUDIT))
    names = [f"{job}.{kind}" for job in (audit, collect, name) for kind in ("service", "timer")]
    assert sorted(p.name for p in units.iterdir()) == names
    assert "OnCalendar=daily" in (units / f"{collect}.timer").read_text()
    assert "OnCalendar=weekly" in (units / f"{audit}.timer").read_text()
    assert "OnUnitActiveSec=15min" in (units / f"{name}.timer").read_text()
    assert f'"--town" "{town.root}"' in (units / f"{name}.service").read_text()
    assert plugins("schedule", "--remove", town=town, PATH=path).returncode == 0
    assert not (isolated / ".config").exists()
    plugins("schedule", town=town, PATH=path)
    plugins("uninstall", town=town, PATH=path)
    assert not (isolated / ".config").exists()
    calls = (isolated / "calls").read_text()
    all_ = f"{name}.timer {collect}.timer {audit}.timer"
    assert calls.count(f"enable --now {all_}") == 2 == calls.count(f"disable --now {all_}")


def test_a_timer_that_systemd_refuses_is_taken_back(town: Town, tools: Path, isolated: Path):
    script(tools / "systemctl", 'case "$*" in *enable*) echo "no such unit" >&2; exit 1;; esac')
    plugins("install", *CONSENT, town=town)
    done = plugins("schedule", town=town, PATH=f"{tools}:{os.environ['PATH']}")
    assert done.returncode == 1 and "no such unit; nothing was set up" in done.stderr
    assert not (isolated / ".config").exists()


def test_the_gas_town_plugin_comes_and_goes(town: Town, tools: Path):
    (town.root / "plugins").mkdir()
    plugins("install", *CONSENT, town=town)
    for other in ("--plugin", "--remove"):
        done = plugins("schedule", "--print", other, town=town)
        assert done.returncode == 2 and not (town.root / "plugins" / "corpus-sweep").exists(), done.stderr
    assert plugins("schedule", "--plugin", town=town).returncode == 0
    folder = town.root / "plugins" / "corpus-sweep"
    assert sorted(p.name for p in folder.iterdir()) == ["plugin.md", "run.sh"]
    script(tools / "gt-corpus", 'echo "swept in $PWD: $*"')
    gt.shim_state().write_text(f"/x/gt\n{tools}/python\n/x\n")
    done = subprocess.run([str(folder / "run.sh")], capture_output=True, text=True)
    assert done.stdout == f"swept in {folder}: sweep\n", done.stderr
    gt.shim_state().write_text("")
    done = subprocess.run([str(folder / "run.sh")], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: corpus-sweep:")
    plugins("uninstall", town=town)
    assert list((town.root / "plugins").iterdir()) == []
