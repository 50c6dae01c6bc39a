"""Parts of the facade for notebooks: running DVC, stages as a table, artifacts by name."""
