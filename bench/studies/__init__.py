"""What caches do to the mini model, by content and by codebook."""
