"""Deploy, rollback, and the endpoint that both lean on.

The order is what makes it safe: everything that can be wrong with names and settings first; the gates; the
load check; the role's files (while they change, the wrapper starts the stock agent); the endpoint; last the
pointer, one atomic replace; then the journal. A failure before the pointer leaves the town as it was.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FinetuneError, NonRetriableError, UserError
from ..registry.journal import Deployed, fold, record, town_key
from ..registry.versions import Version, base_folder, resolve, verify
from ..settings import load_settings, models_home
from ..town.gt import shim_dir
from ..town.roles import TOWN_LEVEL, check_role
from ..town.root import Town
from . import pointers, rolefiles
from .client_settings import build, rigs_of
from .deployed import WRAPPER, Deployment, alias_for, client_model, deployed_roles, read_deployment, role_dir
from .loadcheck import load_check
from .off import set_flag
from .refresh import prime_command
from .wrapper import find_client

if TYPE_CHECKING:
    from ..evaluation.gate import Verdict
    from ..serving.daemon import Running

LoadCheck = Callable[[Version], str]


@dataclass(frozen=True)
class Done:
    """What a deploy or a rollback did. ``after`` is None where the stock agent is back."""

    role: str
    before: str
    after: Deployment | None
    verdicts: tuple[Verdict, ...] = ()
    forced: bool = False
    engine: str = ""
    served: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Plan:
    """A deploy that may go ahead: ``scopes`` are the rigs to point in ('' is the town)."""

    version: Version
    deployment: Deployment
    scopes: tuple[str, ...]
    entry: dict[str, Any]
    notes: tuple[str, ...]


def deploy(
    town: Town,
    home: Path,
    ref: str,
    role: str,
    *,
    rig: str | None = None,
    force: bool = False,
    reason: str = "",
    by: str = "",
    serve: bool = True,
    check: LoadCheck = load_check,
) -> Done:
    """Make a version what gt starts for ``role``: in the whole town, or with ``rig`` in that rig.

    Raises UserError before any work for names, settings and overrides; GateRefused below a gate unless
    ``force`` (which needs a ``reason``); NonRetriableError where the version is damaged or does not load.
    """
    from ..evaluation import gate

    if force and not reason.strip():
        raise UserError("--force-deploy needs --reason TEXT; it is written into the journal")
    check_role(role)
    with rolefiles.town_lock(town):
        version = resolve(home, ref, town.root, role)
        plan = _plan(town, version, role, _scope(town, version, role, rig))
        _check_whole(version)
        candidate = gate.candidate_for(home, version, role, town, load_settings(town))
        verdicts = gate.run_gates(candidate)
        if not force:
            gate.check(verdicts)
        forced = any(not v.allow for v in verdicts)
        engine = check(version)
        before = _live_ref(town, role)
        _carry_out(town, plan, serve)
        record(
            home,
            "deployed",
            town=town_key(town.root),
            role=role,
            model=version.model,
            version=version.version,
            rigs=list(plan.deployment.rigs),
            by=by or user_name(),
            forced=forced,
            reason=reason,
            score=candidate.score,
            threshold=candidate.threshold,
            engine=engine,
        )
    notes = (*plan.notes, _mirror(town, home, version))
    return Done(role, before, plan.deployment, tuple(verdicts), forced, engine, serve, notes)


def _plan(town: Town, version: Version, role: str, rigs: tuple[str, ...]) -> _Plan:
    """Everything that is found before any work. Raises UserError."""
    if role == "dog":
        raise UserError("dog would not change: gt's dog rule starts claude-haiku for any claude agent")
    if version.role != role:
        raise UserError(f"{version.ref} was trained for {version.role}, not for {role}")
    base_folder(version)
    existing = read_deployment(town, role)
    client = find_client()
    port = existing.port if existing else rolefiles.choose_port(town, role)
    deployment = Deployment(
        role=role,
        model=version.model,
        version=version.version,
        models=str(version.home),
        url=f"http://127.0.0.1:{port}",
        port=port,
        alias=alias_for(role),
        client_model=client_model(role),
        rigs=rigs,
        client=str(client or (existing.client if existing else "")),
        at=_now(),
        base=version.base,
    )
    stock, notes = pointers.stock_agent(town, role, rigs[0] if rigs else None)
    entry = {"provider": "claude", "command": str(role_dir(town, role) / WRAPPER), **stock}
    scopes = rigs or ("",)
    for scope in scopes:
        notes += pointers.check_effect(town, role, scope or None, entry)
    for name in rigs_of(town, role):
        build(town, role, name, deployment.url, prime_command())
    return _Plan(version, deployment, scopes, entry, (*notes, *_notes(town, role, client)))


def _scope(town: Town, version: Version, role: str, rig: str | None) -> tuple[str, ...]:
    """The rigs that the deployment is for, () for the whole town. Raises UserError.

    One version of a role is live in a town, since it has one endpoint and one fence.
    """
    existing = read_deployment(town, role)
    if rig is None:
        return ()
    if role in TOWN_LEVEL:
        raise UserError(f"{role} is the town's own and has no rig; leave --rig out")
    known = list(town.rigs())
    if rig not in known:
        raise UserError(f"no rig {rig!r} in {town.root}; it has {', '.join(known) or 'none'}")
    if existing is None:
        return (rig,)
    same = (existing.model, existing.version) == (version.model, version.version)
    if not existing.rigs or (not same and existing.rigs != (rig,)):
        where = f"in {', '.join(existing.rigs)}" if existing.rigs else "in the whole town"
        raise UserError(
            f"{role} runs {existing.ref} {where}; one version of a role is live in a town: roll it back first"
        )
    return tuple(dict.fromkeys([*existing.rigs, rig]))


def _notes(town: Town, role: str, client: Path | None) -> list[str]:
    notes = []
    if client is None:
        notes.append("the agent client (claude) is not on PATH; the wrapper will look for it when it starts")
    if not (shim_dir() / "gt").is_file():
        notes.append(
            "gt-plugins install has not been run; the session's own gt prime and gt sling stay stock"
        )
    if role in load_settings(town).roles_off:
        notes.append(f"{role} is switched off: gt model on {role}")
    if role == "polecat":
        notes.append("gt sling chooses it: set task_types in [rollout.polecat], or give --agent ft-polecat")
    return notes


def _check_whole(version: Version) -> None:
    problems = verify(version)
    if problems:
        more = f" (and {len(problems) - 1} more; gt model verify)" if len(problems) > 1 else ""
        raise NonRetriableError(f"{version.ref} is not as it was registered: {problems[0]}{more}")


def _carry_out(town: Town, plan: _Plan, serve: bool) -> None:
    """Files, endpoint, pointer; on a failure the role is as it was, its old endpoint included."""
    role = plan.deployment.role
    was_running = running_endpoint(town, role) is not None
    try:
        with rolefiles.kept(town, role):
            try:
                rolefiles.write_role(town, plan.version, plan.deployment)
                if serve:
                    ensure_endpoint(town, role)
                else:
                    stop_endpoint(town, role)
                _point(town, plan)
            except BaseException:
                stop_endpoint(town, role)
                raise
    except BaseException:
        if was_running:
            ensure_endpoint(town, role)
        raise
    set_flag(town, role, role in load_settings(town).roles_off)
    rolefiles.finished(town, role)


def _point(town: Town, plan: _Plan) -> None:
    """Set the pointers of the plan's scopes, and take those of other scopes back."""
    role = plan.deployment.role
    for scope in plan.scopes:
        pointers.set_pointer(town, role, scope, plan.entry, point=role != "polecat")
    for pointer in pointers.read_pointers(town):
        if pointer.role == role and pointer.rig not in plan.scopes and plan.deployment.rigs:
            pointers.take_back(town, role, pointer.rig)


def rollback(
    town: Town,
    role: str,
    *,
    by: str = "",
    stock: bool = False,
    serve: bool = True,
    check: LoadCheck = load_check,
) -> Done:
    """Put back what was there before: our version of before, load-checked, else the stock agent.

    ``stock`` goes straight to the stock agent. Raises UserError where nothing is deployed for the role.
    """
    check_role(role)
    with rolefiles.town_lock(town):
        deployment = read_deployment(town, role)
        stands = [p for p in pointers.read_pointers(town) if p.role == role]
        if deployment is None and not stands:
            there = ", ".join(d.role for d in deployed_roles(town))
            raise UserError(f"{role} is not deployed in {town.root}; deployed: {there or 'nothing'}")
        home = Path(deployment.models) if deployment else models_home()
        before = deployment.ref if deployment else "a deploy that did not end"
        notes: list[str] = []
        target = None if stock else _previous(town, home, role, before)
        after = _redeploy(town, home, role, target, serve, check, notes) if target else None
        if after is None:
            _back_to_stock(town, role)
            notes.append(f"a session of {role} that still runs is fenced off now; start it again")
        record(
            home,
            "rolled_back",
            town=town_key(town.root),
            role=role,
            model=deployment.model if deployment else "",
            version=deployment.version if deployment else "",
            to_model=after.model if after else "",
            to_version=after.version if after else "",
            by=by or user_name(),
        )
    return Done(role, before, after, served=serve and after is not None, notes=tuple(notes))


def _previous(town: Town, home: Path, role: str, now: str) -> Deployed | None:
    """What was live before ``now``, as far as it still exists; a deploy that was killed is in no journal."""
    state = fold(home)
    stack = state.stacks.get((town_key(town.root), role), [])
    if stack and f"{stack[-1].model}:{stack[-1].version}" == now:
        stack = stack[:-1]
    return next((e for e in reversed(stack) if (e.model, e.version) in state.versions), None)


def _redeploy(
    town: Town, home: Path, role: str, target: Deployed, serve: bool, check: LoadCheck, notes: list[str]
) -> Deployment | None:
    """Bring an older version back; None, with a note, where it cannot be brought back any more."""
    try:
        version = resolve(home, f"{target.model}:{target.version}")
        plan = _plan(town, version, role, tuple(rig for rig in target.rigs if rig in town.rigs()))
        _check_whole(version)
        check(version)
        _carry_out(town, plan, serve)
    except (FinetuneError, OSError) as error:
        notes.append(f"{target.model}:{target.version} could not be brought back ({error})")
        return None
    return plan.deployment


def _back_to_stock(town: Town, role: str) -> None:
    """The pointer first: from then on gt starts the stock agent by itself."""
    pointers.take_back(town, role)
    stop_endpoint(town, role)
    rolefiles.clear_role(town, role)


def rollback_all(town: Town, by: str = "") -> list[str]:
    """Every role back to the stock agent and ``.finetune`` emptied: what an uninstall does. The roles.

    Raises UserError where one of gt's settings files is broken, with the roles before it rolled back.
    """
    if not town.finetune_dir.is_dir():
        return []
    with rolefiles.town_lock(town):
        names = dict.fromkeys([d.role for d in deployed_roles(town)])
        names |= dict.fromkeys(p.role for p in pointers.read_pointers(town))
    for role in names:
        rollback(town, role, by=by, stock=True)
    rolefiles.remove_all(town)
    return list(names)


def ensure_endpoint(town: Town, role: str) -> Running:
    """Start the deployed version's endpoint in the background unless it runs, and wait until it answers.

    Raises FinetuneError with its own words where it does not come up.
    """
    from ..serving import serve

    return serve.background(serve.plan(role=role, town=town.root))


def running_endpoint(town: Town, role: str) -> Running | None:
    """The role's endpoint if it runs."""
    from ..serving import daemon

    return daemon.running(role_dir(town, role) / daemon.STATE)


def stop_endpoint(town: Town, role: str) -> None:
    """End the role's endpoint if it runs."""
    from ..serving import daemon

    daemon.stop(role_dir(town, role) / daemon.STATE)


def user_name() -> str:
    """Who does this, for the journal."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _live_ref(town: Town, role: str) -> str:
    existing = read_deployment(town, role)
    return existing.ref if existing else ""


def _mirror(town: Town, home: Path, version: Version) -> str:
    from ..registry.mirror import mirror

    return mirror(town, home, version)


def _now() -> str:
    from ..registry.journal import now

    return now()
