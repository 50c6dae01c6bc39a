"""One script per DVC stage: read the parameters, call `video` and `mlops`, write the outs."""
