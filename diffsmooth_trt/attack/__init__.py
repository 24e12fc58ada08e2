"""Projected-gradient attacks on a certified run: how far above its certificates the smoothed classifier can be broken."""
