"""Prompts before they reach the text encoder: files of prompts, rewriting, captions of each loop, file names."""
