"""A run directory: its identity, attempts, logs, environment, records and removal."""
