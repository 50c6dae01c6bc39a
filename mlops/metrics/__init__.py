"""The metrics log: rows, the ledger of samples, timings."""
