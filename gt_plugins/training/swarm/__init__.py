"""A swarm: several peers train one adapter over a network, on hivemind's DHT and libp2p.

    runfile   run.json: which run, which seeds, how to average
    identity  a peer's key; the peers that the operator lets in
    auth      asking an auth server for a place, where run.json names one
    records   what the DHT holds and who may write it (schemas, signatures, owners)
    peers     this peer in the DHT: joining, announcing, finding the others
    exchange  adapters as blobs from peer to peer, checked against the hash that was announced
    guard     which adapters may be averaged: whole, finite, of the right shape and of a sane size
    deal      who takes which batches of the common plan
    member    the listener that does all of it at the borders of local steps

hivemind's own all-reduce mixes what every peer sends before anybody has seen it whole, so a bad peer cannot
be left out afterwards. Here each peer announces a hash, the others fetch its adapter whole, look at it, and
average what is left, each for itself. That costs a download for each peer instead of one for all, which for
an adapter is small.
"""
