"""Conditioning on references: what is read, where its frames go, and which of them are kept."""
