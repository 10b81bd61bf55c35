"""AdaCache for pipelines of diffusers, in one line.

    handle = apply_adacache(pipe, AdaCacheConfig(codebook="fast30", metric_blocks=(14,)))
    video = pipe(prompt).frames[0]
    print(handle.trace.computed_steps)
    handle.remove()

`docs/diffusers.md` lists the models that are known and what was tested.
"""

from adacache.integrations.diffusers.apply import AdaCacheHandle, apply_adacache
from adacache.integrations.diffusers.calibrate import calibrate_pipeline

__all__ = ["AdaCacheHandle", "apply_adacache", "calibrate_pipeline"]
