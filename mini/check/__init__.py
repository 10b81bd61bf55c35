"""Does a video show its caption? Decided from pixels by fixed rules."""
