"""Work spread over processes and over Dask clusters, one result per task."""
