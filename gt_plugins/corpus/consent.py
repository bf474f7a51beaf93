"""Consent: nothing is captured before somebody says so, by name, for this town."""

from __future__ import annotations

import contextlib

from ..errors import UserError
from ..settings import Consent, load_settings, update_settings
from ..town.root import Town
from .store import now


def status(town: Town) -> Consent:
    """Whether, by whom and when. Raises UserError where the settings file is broken."""
    return load_settings(town).consent


def grant(town: Town, by: str) -> Consent:
    """Record that ``by`` allows capturing. Raises UserError without a name."""
    if not by.strip():
        raise UserError("consent needs a name: gt corpus consent --grant --by NAME")
    return update_settings(town, "consent", granted=True, by=by.strip(), at=now()).consent


def revoke(town: Town, by: str) -> Consent:
    """Stop capturing and drop what waits in the spool; what is stored stays until it is purged."""
    if not by.strip():
        raise UserError("revoking needs a name: gt corpus consent --revoke --by NAME")
    settings = update_settings(town, "consent", granted=False, by=by.strip(), at=now())
    if town.spool_dir.is_dir():
        for entry in town.spool_dir.iterdir():
            with contextlib.suppress(FileNotFoundError):
                entry.unlink()
    return settings.consent


def require(town: Town) -> Consent:
    """The consent that capturing rests on. Raises UserError saying how to give it."""
    consent = status(town)
    if not consent.granted:
        raise UserError(
            f"{town.root}: capturing needs consent, and none is recorded; "
            "grant it with `gt corpus consent --grant --by NAME`"
        )
    return consent


def as_text(consent: Consent) -> str:
    """How each row names the consent it was captured under."""
    return f"{consent.by} at {consent.at}" if consent.granted else ""
