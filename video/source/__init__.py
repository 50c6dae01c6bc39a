"""Inspection and decoding of video files."""
