"""The user's videos: index, inspection, decoding."""
