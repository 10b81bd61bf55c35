"""The commands: each checks its arguments before it imports torch, so that --help and mistakes answer at once."""
