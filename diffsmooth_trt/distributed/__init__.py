"""Runs on several processes and machines by Ray: workers hold the engines and do the steps, the driver owns the run store."""
