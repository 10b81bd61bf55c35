"""Which weights are on this machine, whole, and fit the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opensora.doctor.finding import Finding, ok, problem, warning

if TYPE_CHECKING:
    from opensora.weights.locate import Piece

PUBLISHED = "configs/sample_adacache.py"
_DOWNLOAD = "python scripts/weights.py download"


def check_weights(config_path: str, required: bool) -> list[Finding]:
    """Every piece that a config names; of its files little more than the headers is read.

    Args:
        required: whether a missing piece is a problem where it cannot be downloaded; else it is never one.
    """
    from opensora.config.loading import load_config
    from opensora.errors import ConfigError, WeightsError
    from opensora.weights.layout import PIECES
    from opensora.weights.locate import find_piece

    try:
        config = load_config(config_path)
    except ConfigError as error:
        if required:
            return [problem(str(error), f"correct {config_path}, or give another config")]
        return [ok(f"{config_path} is not part of this installation, so no weights were looked for")]
    findings, absent = [], []
    for name, label in PIECES.items():
        wanted = getattr(config, name).from_pretrained
        try:
            piece = find_piece(name, wanted, config.weights_dir)
        except WeightsError as error:
            findings.append(problem(f"{label}: {error}", f"correct {name}.from_pretrained in {config_path}"))
            continue
        if piece.is_complete or piece.repo is None:
            findings += _check_files(piece, getattr(config, name).type, label)
        else:
            absent.append(f"{label} {wanted}")
    return findings + ([_explain_absent(absent, required)] if absent else [])


def _explain_absent(absent: list[str], required: bool) -> Finding:
    """About hub repositories that are not, or not completely, on this machine."""
    from opensora.weights import hub

    text = f"not (completely) on this machine: {', '.join(absent)}"
    if not required:
        return warning(text, f"run: {_DOWNLOAD}, if you want the published model")
    if hub.is_reachable():
        return warning(f"{text}; the first run downloads it", f"run: {_DOWNLOAD} CONFIG to have it before")
    fix = (
        f"run: {_DOWNLOAD} CONFIG --weights-dir DIR where there is a network, copy DIR here, and give --weights-dir DIR"
    )
    return problem(f"{text}, and {hub.why_unreachable()}", fix)


def _check_files(piece: Piece, kind: str, label: str) -> list[Finding]:
    """Of a piece that is here, or should be in a folder of the user's own."""
    from opensora.cli.verify import BAD, check_piece

    findings = []
    for state, sentence in check_piece(piece, kind):
        text = f"{label} {piece.wanted}: {sentence}"
        if state not in BAD:
            findings.append(ok(text))
        elif piece.repo is None:
            findings.append(problem(text, f"copy {piece.wanted} anew, or correct {piece.name}.from_pretrained"))
        else:
            findings.append(problem(text, f"delete {piece.path} and run: {_DOWNLOAD}"))
    return findings
