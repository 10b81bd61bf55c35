"""Several processes: how they are arranged, how they share one video, and what happens when one of them dies.

`launch` is read by every run and imports no torch. All else is imported once more than one process runs.
"""
