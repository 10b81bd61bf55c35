"""Configuration: plain Python files and command-line flags, read once into typed, validated objects."""
