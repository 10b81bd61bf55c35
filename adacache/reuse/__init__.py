"""What computed steps leave for reused ones: a policy decides when to reuse, a `Reuse` object how."""
