"""One sampling run: what will be sampled, what is there already, and the loop that makes the rest."""
