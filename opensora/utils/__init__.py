"""Configuration, weights, prompts, files: everything around the models."""
