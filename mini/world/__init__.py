"""The little world that the mini model knows: scenes, captions, physics, rendering."""
