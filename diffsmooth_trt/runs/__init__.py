"""What lasts of a run: its configuration, store and results, and what reads them again."""
