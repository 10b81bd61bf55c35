"""How close sampled videos are to others, and what they are worth by themselves: metrics, pairs of folders, reports."""
