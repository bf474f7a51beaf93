"""Layer 4 of scrubbing: what the other layers may have missed or taken without need, sampled and counted."""
