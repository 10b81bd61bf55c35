"""Whether videos can be encoded."""

from __future__ import annotations

from opensora.doctor.finding import Finding, ok, problem

ENCODER = "libx264"


def check_encoder() -> list[Finding]:
    """The H.264 encoder within PyAV, which not every build of it has."""
    import av

    if ENCODER not in av.codecs_available:
        fix = "run: pip install --force-reinstall --no-deps av (its wheels have it; builds of distributions may not)"
        return [problem(f"av {av.__version__} is built without {ENCODER}, so no mp4 can be written", fix)]
    return [ok(f"{ENCODER} is there, by FFmpeg's libavcodec {_version_of('libavcodec')}")]


def _version_of(library: str) -> str:
    import av

    return ".".join(map(str, av.library_versions.get(library, ("of unknown version",))))
