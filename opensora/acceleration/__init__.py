"""Several processes: how they are arranged, how they share one video, and what happens when one of them dies.

``launch`` and ``mesh`` are read by every run and import no torch. All else is imported once more than one process runs.
"""
