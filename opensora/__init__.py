"""Open-Sora v1.2 text-to-video sampling with adaptive caching."""
