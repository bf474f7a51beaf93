"""Operational records of a town as corpus documents: beads and their lives, slings, merges, convoys.

    bd export, bd history or the events table, interactions.jsonl ─► beads: each one's life, and the graph
    .events.jsonl, agent beads, gt mq status ─► slings: what was given to whom, how it ended; merge requests
    gt convoy list ─► convoys

Each document is JSON. bd and gt may be slow, absent or failing: that is counted, what was stored stays, and
the rest goes on.
"""
