"""Model weights on disk and on the hub: finding them, proving them whole, downloading them.

Everything but reading tensors and comparing them with a model works without torch.
"""

from opensora.weights.layout import fingerprint, weight_files
from opensora.weights.locate import WeightPaths, local_config, locate_weights

__all__ = ["WeightPaths", "fingerprint", "local_config", "locate_weights", "weight_files"]
