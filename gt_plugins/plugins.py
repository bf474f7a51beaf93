"""The plugin manager: what is built in, and every entry point of the group ``gt_plugins``.

GT_PLUGINS_LOAD=a,b loads only these entry points (empty: none); GT_PLUGINS_DISABLE=a,b leaves these out,
built-ins included. Third-party code that fails to load is reported on stderr and left out: it must never
take a session down with it.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pluggy

from . import hookspecs
from .errors import FinetuneError

BUILT_IN: Mapping[str, str] = {
    "gt_plugins.transcripts.claude": "gt_transcript_sources",
    "gt_plugins.transcripts.codex": "gt_transcript_sources",
    "gt_plugins.transcripts.opencode": "gt_transcript_sources",
    "gt_plugins.corpus.scrub.builtin": "gt_scrub_layers",
    "gt_plugins.corpus.artifacts": "gt_corpus_sources",
    "gt_plugins.corpus.operations.sources": "gt_corpus_sources",
    "gt_plugins.evaluation.builtin": "gt_eval_suites",
    "gt_plugins.evaluation.gate": "gt_deploy_gates",
    "gt_plugins.prime.sections": "gt_prime_sections",
    "gt_plugins.serving.engines.builtin": "gt_serving_engines",
    "gt_plugins.rollout.sling": "gt_sling",
    "gt_plugins.rollout.staleness": "gt_staleness_signals",
    "gt_plugins.training.callbacks": "gt_train_callbacks",
}
"""Our own plugins and the hook that each implements: a module is imported where its hook is asked for."""
_ONE_AT_A_TIME = threading.RLock()
_RANKS = {name: rank for rank, name in enumerate(BUILT_IN)}
ENTRY_POINTS = "gt_plugins"


@dataclass(frozen=True)
class PluginInfo:
    """One registered plugin: its name, where it comes from and the hooks that it implements."""

    name: str
    origin: str
    version: str
    hooks: tuple[str, ...]


@dataclass(frozen=True)
class Implementation:
    """One plugin's implementation of a hook; it is called with those of the arguments that it names."""

    name: str
    call: Callable[..., Any]
    wants: tuple[str, ...]

    def __call__(self, **given: object) -> Any:
        return self.call(*(given[name] for name in self.wants))


def _names(variable: str) -> list[str] | None:
    value = os.environ.get(variable)
    return None if value is None else [n.strip() for n in value.split(",") if n.strip()]


def plugin_manager(hook: str = "") -> pluggy.PluginManager:
    """The one manager of this process, with all of our own plugins or those that implement ``hook``."""
    with _ONE_AT_A_TIME:
        manager = _manager()
        for name, implemented in BUILT_IN.items():
            if hook in ("", implemented) and not (manager.is_blocked(name) or manager.has_plugin(name)):
                manager.register(importlib.import_module(name), name=name)
    return manager


@lru_cache(maxsize=1)
def _manager() -> pluggy.PluginManager:
    """With the plugins of others, which are loaded at first use."""
    manager = pluggy.PluginManager("gt_plugins")
    manager.add_hookspecs(hookspecs)
    for name in _names("GT_PLUGINS_DISABLE") or []:
        manager.set_blocked(name)
    _load_entry_points(manager)
    manager.check_pending()
    return manager


def forget() -> None:
    """Have everything loaded anew: what is installed, or the environment, is another."""
    _manager.cache_clear()


def _rank(name: str) -> int:
    """Ours first, in their order."""
    return _RANKS.get(name, len(_RANKS))


def _load_entry_points(manager: pluggy.PluginManager) -> None:
    from importlib.metadata import entry_points

    wanted = _names("GT_PLUGINS_LOAD")
    for entry in entry_points(group=ENTRY_POINTS):
        if manager.is_blocked(entry.name) or (wanted is not None and entry.name not in wanted):
            continue
        try:
            _add(manager, entry.name, entry.load())
        except (Exception, SystemExit) as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"gt-plugins: {entry.name} ({entry.value}) was left out: {told}", file=sys.stderr)


def _add(manager: pluggy.PluginManager, name: str, plugin: object) -> None:
    """Register a plugin whole or not at all. Raises what is wrong with it, a hook that we do not have too."""
    if name in BUILT_IN or manager.has_plugin(name):
        raise ValueError("another plugin has this name")
    if getattr(plugin, "__name__", "") in BUILT_IN:
        raise ValueError("it is a plugin of ours")
    try:
        manager.register(plugin, name=name)
        for caller in manager.get_hookcallers(plugin) or ():
            if not caller.has_spec() and not all(i.optionalhook for i in caller.get_hookimpls()):
                raise ValueError(f"there is no hook {caller.name}")
    except BaseException:
        if manager.get_plugin(name) is plugin:
            manager.unregister(plugin)
        raise


def answers(hook: str, **arguments: Any) -> list[Any]:
    """What each plugin answers to a hook, built-ins first. One that raises is told on stderr and left out."""
    found = []
    for one in implementations(hook):
        try:
            found.append(one(**arguments))
        except Exception as error:
            print(f"gt-plugins: {_failed(one.name, hook, error)}; it was left out", file=sys.stderr)
    return found


def all_answers(hook: str, **arguments: Any) -> list[Any]:
    """What every plugin answers to a hook that none may drop out of (scrubbing, required suites).

    Raises FinetuneError naming the plugin that raised."""
    found = []
    for one in implementations(hook):
        try:
            found.append(one(**arguments))
        except FinetuneError:
            raise
        except Exception as error:
            raise FinetuneError(
                f"{_failed(one.name, hook, error)}; leave it out with GT_PLUGINS_DISABLE"
            ) from error
    return found


def implementations(hook: str) -> list[Implementation]:
    """Who implements a hook, ours first, then in the order of registration; the caller decides about one
    that raises."""
    found = getattr(plugin_manager(hook).hook, hook).get_hookimpls()
    return [
        Implementation(i.plugin_name, i.function, tuple(i.argnames))
        for i in sorted(found, key=lambda i: _rank(i.plugin_name))
        if not (i.hookwrapper or i.wrapper)
    ]


def _failed(name: str, hook: str, error: Exception) -> str:
    return f"plugin {name}: {hook} failed: " + " ".join(f"{type(error).__name__}: {error}".split())


def list_plugins() -> list[PluginInfo]:
    """Every plugin, ours first, in the order of registration."""
    from importlib.metadata import entry_points

    from . import __version__

    manager = plugin_manager()
    found = {e.name: e for e in entry_points(group=ENTRY_POINTS)}
    infos = []
    for name, plugin in sorted(manager.list_name_plugin(), key=lambda pair: _rank(pair[0])):
        if plugin is None:
            continue
        hooks = tuple(sorted(c.name for c in manager.get_hookcallers(plugin) or []))
        entry = found.get(name)
        if entry is not None and entry.dist is not None:
            infos.append(PluginInfo(name, entry.dist.name, entry.dist.version, hooks))
        else:
            infos.append(PluginInfo(name, "built-in", __version__, hooks))
    return infos
