"""Policies: each decides, from numbers alone, which steps are computed. A new policy is one file."""
