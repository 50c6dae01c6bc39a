"""The commands of `python -m commands`, a module each.

A module has `add_arguments(parser)`, which sets up its part of the command line, and
`main(options)`, which does the work and prints. Faults of the user are `PipelineError`s.
"""
