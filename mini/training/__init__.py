"""Training the mini model from scratch."""
