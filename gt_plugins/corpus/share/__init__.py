"""Sharing within a rig: a signed bundle of scrubbed sessions, from one town of a rig to another.

    export: opted in? ─► sessions of the rig, scrubbed anew ─► bundle (hashed) ─► signed
    import: opted in? ─► signed by somebody trusted ─► every hash right ─► scrubbed by our policy ─► stored

``settings`` says who may, ``keys`` signs, ``bundle`` is the file, ``exchange`` does both ways, ``rows`` is
what the corpus remembers of it.
"""
