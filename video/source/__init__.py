"""Index, inspection and decoding of the user's videos."""
