"""How much memory a run takes: estimated by stage before it starts, measured when it is over."""
