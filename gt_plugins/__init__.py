"""gastown-finetune: small, gated role models for Gas Town, tuned on what your own town did."""

from pluggy import HookimplMarker

__version__ = "0.1.0"

hookimpl = HookimplMarker("gt_plugins")
"""Marks a function of a plugin as an implementation of a hook in :mod:`gt_plugins.hookspecs`."""
