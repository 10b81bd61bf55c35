"""How close sampled videos are to others, and how good they are by themselves: metrics, pairs of folders, reports."""
