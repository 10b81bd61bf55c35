"""What computed steps leave to reused ones: a policy decides when, a reuse object does what."""
