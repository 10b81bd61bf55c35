"""The known families of transformers: data about their forwards, their blocks and their residuals."""

from __future__ import annotations

from difflib import get_close_matches

from adacache.integrations.diffusers.families import cogvideox, hunyuan, kandinsky, ltx, others, wan
from adacache.integrations.diffusers.family import Family

KNOWN = {
    family.transformer: family for file in (others, cogvideox, wan, ltx, hunyuan, kandinsky) for family in file.FAMILIES
}

_FEW_STEPS = "its models are distilled to a few steps, too few to leave some out"
_ONE_SEQUENCE = "its text, picture and sound are rows of one sequence, where each would have to be measured by itself"
# Transformers that cannot be cached, and why.
REFUSED = {
    "AnyFlowTransformer3DModel": _FEW_STEPS,
    "AnyFlowFARTransformer3DModel": _FEW_STEPS,
    "Cosmos3OmniTransformer": _ONE_SEQUENCE,
    "JoyImageEditPlusTransformer3DModel": "it edits images",
    "JoyImageEditTransformer3DModel": "it edits images",
    "Kandinsky6SRTransformer3DModel": "it upscales a finished video tile by tile, in a few steps for each tile",
    "MiniMaxH3Transformer3DModel": _ONE_SEQUENCE,
    "SanaWMLTX2RefinerTransformer3DModel": "it refines a finished video in chunks, with a cache of its own",
    "WanAnimate2Transformer3DModel": "a call of its own fills the keys and values that the steps of a section read",
}


def find_family(transformer: object) -> Family:
    """Return the family of a transformer, whose class may be derived from a known one.

    Raises:
        ValueError: the transformer belongs to no known family, or cannot be cached.
    """
    names = [cls.__name__ for cls in type(transformer).__mro__]
    found = next((KNOWN[name] for name in names if name in KNOWN), None)
    if found is None and names[0] in REFUSED:
        raise ValueError(f"{names[0]} cannot be cached: {REFUSED[names[0]]}")
    if found is None:
        close = get_close_matches(names[0], KNOWN, 1)
        raise ValueError(
            f"AdaCache does not know the model {names[0]}; "
            + (f"did you mean {close[0]}? " if close else "")
            + f"known are {', '.join(sorted(KNOWN))}, and adacache/integrations/diffusers/family.py says how to add one"
        )
    return found
