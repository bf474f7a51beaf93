"""The key, and what a town and a machine contribute to a policy."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gt_plugins.corpus.scrub.engine import Scrubber, scrubber_for
from gt_plugins.corpus.scrub.policy import (
    load_key,
    machine_values,
    remote_host,
    standalone_policy,
    town_policy,
)
from gt_plugins.errors import UserError
from gt_plugins.settings import update_settings
from gt_plugins.town.root import Town


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "scrub.key"
    old = os.umask(0)
    try:
        key = load_key(path)
    finally:
        os.umask(old)
    assert len(key) == 32 and load_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["scrub.key"]


def test_two_processes_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: load_key(tmp_path / "scrub.key"), range(32)))
    assert len(keys) == 1


def test_a_loose_key_is_tightened_and_a_broken_one_named(tmp_path: Path) -> None:
    path = tmp_path / "scrub.key"
    load_key(path)
    path.chmod(0o644)
    load_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("torn")
    with pytest.raises(UserError, match=r"scrub\.key: not a scrub key") as error:
        load_key(path)
    assert "torn" not in str(error.value)


def test_the_key_of_a_town_stands_outside_the_corpus(town: Town) -> None:
    policy = town_policy(town, {})
    path = town.root / ".finetune" / "scrub.key"
    assert bytes.fromhex(path.read_text().strip()) == policy.key
    assert (town.root / ".finetune" / ".gitignore").read_text() == "*\n"
    assert not (town.root / ".corpus").exists()


def test_the_stand_alone_key(isolated: Path) -> None:
    policy = standalone_policy({})
    assert policy.key == load_key(isolated / ".config" / "gastown-finetune" / "scrub.key")
    other = standalone_policy({"XDG_CONFIG_HOME": str(isolated / "xdg")})
    assert other.key == load_key(isolated / "xdg" / "gastown-finetune" / "scrub.key") != policy.key


def test_the_environments_secrets_are_exact_values() -> None:
    found = {
        e.value
        for e in machine_values(
            {
                "MY_APP_TOKEN": "zx81-unmistakable-9f",
                "DATABASE_URL": "postgres://u:longpassw0rd@h/db",
                "SHORT_TOKEN": "a1b2",
                "PATH": "/usr/bin:/bin",
                "DB_PASSWORD": "postgres",
                "API_KEY": "${OTHER}",
                "GITHUB_TOKEN": "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
                "MAX_TOKENS": "32000-or-more-x1",
            }
        )
        if e.kind == "secret"
    }
    assert found == {"zx81-unmistakable-9f", "longpassw0rd"}, "format-known, weak and named ones stay out"


def test_people_and_hosts_of_a_town(town: Town, isolated: Path) -> None:
    def git(*args: str) -> None:
        subprocess.run(["git", "-C", str(rig), *args], check=True, capture_output=True)

    rig = town.root / "demo" / "mayor" / "rig"
    rig.mkdir(parents=True)
    git("init", "-q")
    git("remote", "add", "origin", "git@git.quist-works.net:team/widgets.git")
    git("remote", "add", "hub", "https://github.com/acme/widgets.git")
    for name, mail in (
        ("Zora Quist", "zora@quist.dev"),
        ("demo/polecats/Toast", "zora@quist.dev"),
        ("Claude", "c@x.io"),
    ):
        author = f"--author={name} <{mail}>"
        git(
            "-c",
            "user.name=Ilkay Morvane",
            "-c",
            "user.email=im@x.org",
            "commit",
            "-q",
            "--allow-empty",
            author,
            "-m",
            "x",
        )
    (town.root / "mayor/overseer.json").write_text(
        json.dumps({"name": "Renske Waldau", "email": "renske@waldau.org", "username": "rwaldau"})
    )
    (town.root / "mayor/accounts.json").write_text(
        json.dumps({"accounts": {"a": {"email": "second@waldau.org"}}})
    )
    text = (
        "Zora Quist, Quist, zora@quist.dev, Morvane, RENSKE WALDAU, rwaldau, second@waldau.org, "
        "git.quist-works.net, "
        "github.com/acme, demo/polecats/Toast, Claude, mayor, deacon"
    )
    out, _ = scrubber_for(town).text(text)
    for gone in ("zora", "quist", "morvane", "waldau", "renske"):
        assert gone not in out.lower(), gone
    assert out.endswith("github.com/acme, demo/polecats/Toast, Claude, mayor, deacon")


def test_lists_of_the_settings(town: Town) -> None:
    update_settings(town, "scrub", deny=["Falcon Nine"], allow=["quist.dev"])
    out, _ = scrubber_for(town).text("Falcon Nine by a@quist.dev and b@waldau.org")
    assert "Falcon" not in out and "a@quist.dev" in out and "waldau" not in out


KEYCHAINS = {
    "prod.env": "# db\nexport DB_PASSWORD='Vael-9x!'\nREGION=us-east-1\nBLOB=qP7xR2mK9vLw4Tz8 # a note\n",
    "keys.json": '{"aws": {"secret": "n0tAnyF0rmat-77", "region": "us-east-1"}, "list": ["Quince.Marble.7"]}',
    "netrc": "machine git.acme.io login ann password Tulip-Row-88\n",
    "plain.txt": "orchid lamp\nOrchid#Lamp22\n",
}


@pytest.mark.parametrize("name", list(KEYCHAINS))
def test_what_stands_in_a_keychain_goes_wherever_it_occurs(town: Town, name: str) -> None:
    (town.root / name).write_text(KEYCHAINS[name])
    before = scrubber_for(town)
    update_settings(town, "scrub", keychains=[name])
    scrub = scrubber_for(town)
    assert scrub.policy.version != before.policy.version
    secrets = {
        "prod.env": ["Vael-9x!", "qP7xR2mK9vLw4Tz8"],
        "keys.json": ["n0tAnyF0rmat-77", "Quince.Marble.7"],
        "netrc": ["Tulip-Row-88"],
        "plain.txt": ["Orchid#Lamp22"],
    }[name]
    for secret in secrets:
        text = f"he typed {secret} and us-east-1 for ann, orchid lamp"
        assert before.text(text)[0] == text, "nothing else knows it"
        out, _ = scrub.text(text)
        assert secret not in out and out.endswith("and us-east-1 for ann, orchid lamp")
        assert scrub.text(out)[0] == out


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"x" * (2 << 20)])
def test_a_keychain_that_cannot_be_read_stops_capturing(town: Town, content: bytes | None) -> None:
    if content is not None:
        (town.root / "chain").write_bytes(content)
    update_settings(town, "scrub", keychains=["chain"])
    with pytest.raises(UserError, match=r"scrub\.keychains: chain: "):
        scrubber_for(town)


@pytest.mark.parametrize(
    "spelt", ["u.vandermeer", "uvandermeer", "UVANDERMEER", "vandermeer_u", "u-vandermeer"]
)
def test_a_person_is_known_by_an_initial_and_the_last_name(town: Town, spelt: str) -> None:
    (town.root / "mayor/overseer.json").write_text(json.dumps({"name": "Ursula van der Meer"}))
    out, _ = scrubber_for(town).text(f"assigned to {spelt}, reviewed")
    assert spelt not in out and out.startswith("assigned to ") and out.endswith(", reviewed")


def test_a_town_with_broken_files_still_scrubs(town: Town) -> None:
    (town.root / "mayor/overseer.json").write_text("{torn")
    (town.root / "mayor/accounts.json").write_bytes(b"\xff\xfe")
    assert "hunter22" not in scrubber_for(town).text("password=hunter22")[0]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("git@git.acme.corp:team/x.git", "git.acme.corp"),
        ("ssh://git@git.acme.corp:2222/x.git", "git.acme.corp"),
        ("https://u:p@git.acme.corp/x.git", "git.acme.corp"),
        ("/srv/git/x.git", ""),
        ("file:///srv/git/x.git", ""),
        ("../x.git", ""),
        ("C:\\git\\x", ""),
        ("", ""),
    ],
)
def test_hosts_of_remotes(url: str, host: str) -> None:
    assert remote_host(url) == host


def test_one_key_one_language_across_scrubbers(isolated: Path) -> None:
    text = "token=Ab12Cd34Ef56Gh78 by zora@quist.dev"
    assert Scrubber(standalone_policy({})).text(text) == Scrubber(standalone_policy({})).text(text)
