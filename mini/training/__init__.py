"""Training the mini model from nothing."""
