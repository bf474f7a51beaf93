"""A third party's plugin adds to every room without touching ours; one that is broken is left out."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rendering_helpers import conversation, said, user

from gt_plugins import hookspecs, plugins
from gt_plugins.corpus.dataset import Example
from gt_plugins.errors import FinetuneError
from gt_plugins.plugins import BUILT_IN, list_plugins, plugin_manager
from gt_plugins.town.root import Town

HERE = Path(__file__).parent / "thirdparty"


class Site:
    """A folder on the path with installed packages, as pip leaves them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def install(self, name: str, version: str, points: dict[str, str], **modules: str) -> None:
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{key} = {value}\n" for key, value in points.items()]
        (info / "entry_points.txt").write_text("".join(["[gt_plugins]\n", *lines]))
        for module, text in modules.items():
            (self.folder / f"{module}.py").write_text(text)

    def install_example(self) -> None:
        project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
        module = (HERE / "gt_example_plugin.py").read_text()
        points = project["entry-points"]["gt_plugins"]
        self.install(project["name"], project["version"], points, gt_example_plugin=module)

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command of ours in a process of its own, with this folder on its path."""
        root = str(Path(__file__).parent.parent)
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.folder), root]), **environment}
        return subprocess.run(
            [sys.executable, "-m", *words], capture_output=True, text=True, env=env, timeout=120
        )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path / "site")
    monkeypatch.syspath_prepend(str(made.folder))
    monkeypatch.delenv("GT_PLUGINS_LOAD")
    before = set(sys.modules)
    plugins.forget()
    yield made
    plugins.forget()
    for name in set(sys.modules) - before:
        if name.startswith("gt_example") or name.startswith("broken"):
            del sys.modules[name]


def listed(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return {p["name"]: p for p in json.loads(done.stdout)}


def test_the_list_shows_every_plugin_and_its_hooks(site: Site) -> None:
    site.install_example()
    done = site.run("gt_plugins.cli.plugins", "list", "--json")
    found = listed(done)
    assert done.stderr == ""
    assert list(found)[: len(BUILT_IN)] == list(BUILT_IN)
    assert all(found[name]["origin"] == "built-in" and found[name]["hooks"] for name in BUILT_IN)
    assert found["example"] == {
        "name": "example",
        "origin": "gt-example-plugin",
        "version": "0.3.0",
        "hooks": ["gt_dataset_filters", "gt_eval_suites", "gt_prime_sections", "gt_scrub_layers"],
    }
    table = site.run("gt_plugins.cli.plugins", "list").stdout
    assert "gt-example-plugin" in table and "gt_scrub_layers" in table


def test_ours_are_imported_where_their_hook_is_asked_for() -> None:
    assert {p.name: p.hooks for p in list_plugins() if p.name in BUILT_IN} == {
        name: (hook,) for name, hook in BUILT_IN.items()
    }
    ask = "import sys; from gt_plugins.plugins import implementations as ask; ask('gt_transcript_sources'); "
    show = "print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", ask + show], capture_output=True, text=True, check=True)
    imported = BUILT_IN.keys() & set(done.stdout.split())
    assert imported == {name for name, hook in BUILT_IN.items() if hook == "gt_transcript_sources"}


def test_its_scrub_layer_scrubs(site: Site, town: Town) -> None:
    from gt_plugins.corpus.scrub.engine import scrubber_for

    plain = scrubber_for(town)
    assert plain.text("seen with BADGE-4711 on")[0] == "seen with BADGE-4711 on"
    site.install_example()
    plugins.forget()
    scrubber = scrubber_for(town)
    text, counts = scrubber.text("seen with BADGE-4711 and BADGE-4711 on")
    assert "4711" not in text and counts == {"badge": 2}
    assert scrubber.policy.version != plain.policy.version, "what is stored must be scrubbed again"


def test_its_suite_is_there_and_required(site: Site) -> None:
    from gt_plugins.evaluation.evaluate import suites_for
    from gt_plugins.evaluation.gate import required_suites
    from gt_plugins.evaluation.suites import find_suite

    site.install_example()
    assert required_suites("deacon") == ("deacon-decisions", "example-fires")
    assert required_suites("witness") == ("witness-decisions",)
    assert [s.name for s in suites_for("deacon")] == ["deacon-decisions", "example-fires"]
    assert find_suite("example-fires", "deacon").cases()[0].id == "fire-1"


def test_two_suites_of_one_name_are_refused(site: Site) -> None:
    from gt_plugins.errors import UserError
    from gt_plugins.evaluation.suites import find_suite

    module = (HERE / "gt_example_plugin.py").read_text().replace("example-fires", "deacon-decisions")
    site.install("gt-copy", "1.0", {"copy": "gt_example_copy"}, gt_example_copy=module)
    with pytest.raises(UserError, match="two plugins offer a suite named 'deacon-decisions'"):
        find_suite("deacon-decisions", "deacon")


def test_its_evidence_and_its_filter_keep_examples_out(site: Site) -> None:
    from gt_plugins.corpus.assemble import plugin_filters, suite_texts

    def example(text: str) -> Example:
        asked = conversation([user(said(text))])
        return Example("1", "chat", "deacon", "s", (), "", False, (), asked)

    site.install_example()
    assert "The kiln of nux is on fire." in suite_texts()["example-fires"]
    judge = plugin_filters()
    verdict = judge(example("a kiln"))
    assert verdict is not None and not verdict.keep and verdict.reason == "about fires"
    assert judge(example("a bell")) is None


def test_a_filter_that_fails_ends_the_build_by_name(site: Site) -> None:
    from gt_plugins.corpus.assemble import plugin_filters

    code = (
        "from gt_plugins import hookimpl\n\n@hookimpl\ndef gt_dataset_filters(example):\n    raise OSError\n"
    )
    site.install("gt-broken", "1.0", {"broken": "gt_broken"}, gt_broken=code)
    example = Example("1", "chat", "deacon", "s", (), "", False, (), conversation([user(said("a bell"))]))
    with pytest.raises(FinetuneError, match="plugin broken: gt_dataset_filters failed: OSError"):
        plugin_filters()(example)


def test_its_section_stands_in_the_prime(site: Site, tmp_path: Path) -> None:
    from gt_plugins.prime.budget import Deployed
    from gt_plugins.prime.command import offered_sections
    from gt_plugins.prime.slim import slim

    site.install_example()
    deployed = Deployed("deacon", tmp_path, 240, "")
    sections = [s for offer in offered_sections(deployed, None) for s in offer("# Deacon Context")]
    made = slim("# Deacon Context\n\nrole:deacon", "deacon", tokens=240, extra=sections)
    assert "Badges:\nThe deacon keeps its badge." in made.text
    assert "example" in [piece.name for piece in made.kept]


# -- left out ---------------------------------------------------------------------------------------

HOOK = "from gt_plugins import hookimpl\n@hookimpl\n"
BROKEN = {
    "raises": ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "no import": ("import no_such_module", "no_such_module"),
    "no syntax": ("def", "SyntaxError"),
    "wrong argument": (f"{HOOK}def gt_eval_suites(town): return []\n", "town"),
    "no such hook": (f"{HOOK}def gt_eval_suits(): return []\n", "there is no hook gt_eval_suits"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_plugin_is_left_out_with_one_line(
    what: str, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    text, told = BROKEN[what]
    module = f"broken_{what.replace(' ', '_')}"
    site.install("gt-broken", "1.0", {"broken": module}, **{module: text})
    site.install_example()
    names = [p.name for p in list_plugins()]
    assert "broken" not in names and "example" in names
    assert set(BUILT_IN) <= set(names)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert (
        lines[0].startswith("gt-plugins: broken (broken_")
        and "was left out: " in lines[0]
        and told in lines[0]
    )
    assert plugin_manager().hook.gt_eval_suites()


def test_a_hook_that_may_be_missing_is_no_hindrance(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    text = "from gt_plugins import hookimpl\n@hookimpl(optionalhook=True)\ndef gt_of_tomorrow(): return []\n"
    site.install("gt-broken", "1.0", {"tomorrow": "broken_tomorrow"}, broken_tomorrow=text)
    assert "tomorrow" in [p.name for p in list_plugins()]
    assert capsys.readouterr().err == ""


def test_a_plugin_cannot_take_the_name_of_ours(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    name = "gt_plugins.evaluation.builtin"
    site.install("gt-broken", "1.0", {name: "broken_thief"}, broken_thief="")
    assert plugin_manager().get_plugin(name) is importlib.import_module(name)
    assert "another plugin has this name" in capsys.readouterr().err


def test_a_plugin_that_is_one_of_ours_is_left_out(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    ours = "gt_plugins.corpus.scrub.builtin"
    site.install("gt-broken", "1.0", {"mine": ours})
    assert [one.name for one in plugins.implementations("gt_scrub_layers")] == [ours]
    assert (
        "mine (gt_plugins.corpus.scrub.builtin) was left out: ValueError: it is a plugin of ours"
        in capsys.readouterr().err
    )


def test_threads_may_ask_for_a_hook_at_once() -> None:
    plugins.forget()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(plugins.implementations, ["gt_eval_suites"] * 64))
    plugins.forget()
    assert all(one == found[0] for one in found)


def test_plugins_are_left_out_by_name(site: Site) -> None:
    site.install_example()
    gone = "gt_plugins.evaluation.builtin"
    found = listed(
        site.run("gt_plugins.cli.plugins", "list", "--json", GT_PLUGINS_DISABLE=f"example, {gone}")
    )
    assert "example" not in found and gone not in found
    assert set(found) == set(BUILT_IN) - {gone}


def test_only_the_named_entry_points_are_loaded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install_example()
    for value, there in (("", False), ("other", False), ("other,example", True)):
        monkeypatch.setenv("GT_PLUGINS_LOAD", value)
        plugins.forget()
        assert ("example" in [p.name for p in list_plugins()]) is there


def test_every_hook_that_is_implemented_is_specified() -> None:
    manager = plugin_manager()
    specified = {n for n in vars(hookspecs) if n.startswith("gt_")}
    for info in list_plugins():
        assert set(info.hooks) <= specified, info.name
    called = {c.name for p in manager.get_plugins() for c in manager.get_hookcallers(p) or ()}
    assert {"gt_scrub_layers", "gt_eval_suites", "gt_prime_sections", "gt_serving_engines"} <= called
    assert plugins.ENTRY_POINTS == "gt_plugins"
    assert all(getattr(hookspecs, name).__doc__ for name in specified)


FAILS = f"{HOOK}def gt_NAME(ARGS): raise RuntimeError('on\\nfire')\n"


@pytest.mark.parametrize("hook", ["staleness_signals", "corpus_sources"])
def test_a_hook_that_raises_is_told_and_the_others_are_heard(
    hook: str, site: Site, town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    before = plugins.answers(f"gt_{hook}", town=town)
    text = FAILS.replace("NAME", hook).replace("ARGS", "town")
    site.install("gt-broken", "1.0", {"broken": "broken_call"}, broken_call=text)
    plugins.forget()
    assert len(plugins.answers(f"gt_{hook}", town=town)) == len(before) >= 1
    told = capsys.readouterr().err.splitlines()
    assert told == [f"gt-plugins: plugin broken: gt_{hook} failed: RuntimeError: on fire; it was left out"]


def test_a_scrub_layer_that_cannot_be_made_stops_all_scrubbing(site: Site, town: Town) -> None:
    from gt_plugins.corpus.scrub.engine import scrubber_for
    from gt_plugins.errors import FinetuneError

    text = FAILS.replace("NAME", "scrub_layers").replace("ARGS", "policy")
    site.install("gt-broken", "1.0", {"broken": "broken_layer"}, broken_layer=text)
    plugins.forget()
    with pytest.raises(FinetuneError, match="plugin broken: gt_scrub_layers failed: RuntimeError: on fire"):
        scrubber_for(town)
