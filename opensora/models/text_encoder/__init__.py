"""Prompt text to embeddings: caption cleaning and the T5 encoder."""
