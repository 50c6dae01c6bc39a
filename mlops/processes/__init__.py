"""Processes of a stage: signals, parents, ranks, devices, progress."""
