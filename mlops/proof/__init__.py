"""The proof that a killed training ends as one that was never killed.

It works in a clone of the repository, with a cache of its own, so that nothing of it reaches the
user's runs/, git references, cache or workspace. DVC is used as a program, as a user does.

    target       the stage to kill, as dvc.lock records it
    clone        the repository to kill it in
    processes    who descends from whom, and signals to exactly those
    modes        how a user starts the stage, and who of it can be killed
    evidence     what of a run lies on disk, and which part a kill hit
    moments      when to kill
    comparison   what two runs made, side by side
    trial        one run, never killed or killed again and again
"""
