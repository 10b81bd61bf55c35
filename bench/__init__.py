"""A fair comparison of policies: the same prompts and seeds, one process, equal compute."""
