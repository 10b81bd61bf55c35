"""Model weights on disk and on the hub: finding them, checking that they are whole, downloading them.

Everything works without torch, except reading tensors and comparing them with a model.
"""

from opensora.weights.layout import fingerprint, weight_files
from opensora.weights.locate import WeightPaths, local_config, locate_weights

__all__ = ["WeightPaths", "fingerprint", "local_config", "locate_weights", "weight_files"]
