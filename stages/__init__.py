"""One script per DVC stage: read the parameters, call `video` and `mlops`, write the outs."""

# Note the source of this process, and who started it, before a stage imports torch, which takes
# seconds.
import mlops.files.source
import mlops.processes.parent  # noqa: F401
