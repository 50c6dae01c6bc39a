"""Files: atomic writes, journals, locks, canonical text, tables."""
