"""What `mkdocs build` adds to docs/: pages that stand elsewhere in the repository, and the reference of the API.

Documents link to each other and to source files as GitHub shows them. Here a link to a document leads to its page, and
of a link to a source file its text is left.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
# Pages by the documents that they show.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "assets/opensora-mini/README.md": "model-card.md",
}
PICTURES = ("assets/images", "assets/opensora-mini")
REFERENCE = {
    "adacache": [
        *("adacache.StepController", "adacache.AdaCacheConfig", "adacache.MoRegConfig", "adacache.Codebook"),
        *("adacache.BridgeConfig", "adacache.Site", "adacache.Trace", "adacache.StepRecord", "adacache.RunObserver"),
    ],
    "diffusers": [
        "adacache.integrations.diffusers.apply_adacache",
        "adacache.integrations.diffusers.AdaCacheHandle",
        "adacache.integrations.diffusers.calibrate_pipeline",
    ],
    "pipeline": [
        *("opensora.pipeline.SamplingPipeline", "opensora.pipeline.SamplingOutput"),
        *("opensora.config.loading.load_config", "opensora.datasets.video_io.write_video"),
    ],
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and pictures that are not in docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for folder in PICTURES:
        for path in sorted((ROOT / folder).iterdir()):
            if path.suffix in (".png", ".webp"):
                files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for name, members in REFERENCE.items():
        text = "\n\n".join([f"# Reference: {name}", *(f"::: {member}" for member in members)])
        files.append(File.generated(config, f"api/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn the links of a document into those of its page."""
    uri = page.file.src_uri
    document = next((source for source, shown in PAGES.items() if shown == uri), f"docs/{uri}")

    def replace(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups()
        found = posixpath.normpath(posixpath.join(posixpath.dirname(document), target))
        shown = PAGES.get(found, found.removeprefix("docs/"))
        if files.get_file_from_path(shown) is None:
            return text
        return f"{image}[{text}]({posixpath.relpath(shown, posixpath.dirname(uri) or '.')}{anchor or ''})"

    return LINK.sub(replace, markdown)
