"""A run and its workers, from what can be known before the start to the report at the end.

    run/            launch, the controller's loop, what goes on beside it, and the end       may use all below
    workers/        what actors hold: they draw, score and learn, and know nothing of Ray    may use all below
    supervision/    actors, how they live and die, how many there are                        may use planning
    planning/       inputs, places, memory and pace of a run that has not started

`messages.py` has what controller and workers say to each other.
"""
