"""Packs of clips, batches read from them, and the order of an epoch."""
