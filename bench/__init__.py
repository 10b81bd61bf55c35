"""Compare policies fairly: the same prompts and seeds, one process, equal compute."""
