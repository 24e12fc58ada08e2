"""How fast a classifier votes here: rates, latencies, what the time goes into, and how that compares."""
