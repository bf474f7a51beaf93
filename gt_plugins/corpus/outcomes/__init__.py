"""What became of the work: sessions judged by their bead, a patrol's single decisions by what followed.

    sessions ─► deeds (who did what about whom, when) ─┐
    .events.jsonl, warrants, bead records ─► records ──┴─► judge ─► labels ─► rates beside matched situations

``compute`` does it all and stores the labels; ``rows`` is where others read them.
"""
