"""Several processes: how they are arranged, how they share one video, and what happens when one of them dies.

Every run imports `launch`, which needs no torch. The rest is imported only if more than one process runs.
"""
