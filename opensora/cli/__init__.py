"""One sampling run: what will be sampled, what is finished already, and the loop that makes the rest."""
