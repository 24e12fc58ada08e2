"""Bounds on probabilities from votes: pure, verified in decimal arithmetic, rounded against us."""
