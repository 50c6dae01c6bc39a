"""Clips: packs of frames, batches read from them, the order of an epoch."""
