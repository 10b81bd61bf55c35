"""The bundled mini model: its procedural data, its training and the check of its samples."""
