"""Prompts before they reach the text encoder: prompt files, rewriting, the captions of each loop, file names."""
