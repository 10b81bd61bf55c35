"""Check whether a video shows its caption, from its pixels and by fixed rules."""
