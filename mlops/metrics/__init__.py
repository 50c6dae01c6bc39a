"""The metrics log: rows, best values, the ledger of samples, timings."""
