"""What a cache must and must not do to a pipeline, and pipelines small enough to try it on."""
