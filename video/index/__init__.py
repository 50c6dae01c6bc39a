"""The user's table of videos, and the files and segments that its rows name."""
