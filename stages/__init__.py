"""One script per DVC stage: read the parameters, call `video` and `mlops`, write the outs."""

# Notes who started this process before a stage imports torch, which takes seconds.
import mlops.processes  # noqa: F401
