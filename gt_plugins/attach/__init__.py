"""Attaching to a town and leaving it again: the shim, the client's hook, the formulas, the consent."""
