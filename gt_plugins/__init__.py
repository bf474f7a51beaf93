"""gastown-finetune: small, gated role models for Gas Town, tuned on what your own town did."""

__version__ = "0.1.0"

TYPE_CHECKING = False  # as type checkers know it; importing typing takes 3 ms, which gt-hook has not either
if TYPE_CHECKING:
    from typing import Any

    from pluggy import HookimplMarker

    hookimpl = HookimplMarker("gt_plugins")
    """Marks a function of a plugin as an implementation of a hook in :mod:`gt_plugins.hookspecs`."""


def __getattr__(name: str) -> "Any":
    """``hookimpl``, made when it is first asked for: importing pluggy takes 20 ms, which gt-hook has not."""
    if name != "hookimpl":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pluggy import HookimplMarker

    globals()["hookimpl"] = marker = HookimplMarker("gt_plugins")
    return marker
