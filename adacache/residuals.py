"""The stored residuals of one run."""

import torch
from torch import Tensor


class ResidualStore:
    """Residuals by key, one key per guidance branch; a reused step costs one addition and no memory."""

    def __init__(self) -> None:
        self._residuals: dict[str, Tensor] = {}

    def store(self, key: str, residual: Tensor) -> None:
        """Keep `residual`, of any shape, in place of the key's previous one; its autograd graph is let go."""
        self._residuals[key] = residual.detach()

    def drop(self, key: str) -> None:
        """Let go of the key's residual, if there is one."""
        self._residuals.pop(key, None)

    def get(self, key: str) -> Tensor:
        """The residual stored under `key`.

        Raises: RuntimeError when there is none.
        """
        if key not in self._residuals:
            known = ", ".join(f"'{name}'" for name in self._residuals) or "nothing"
            raise RuntimeError(
                f"no residual is stored for '{key}' (stored: {known}); every guidance branch "
                "must also take part in the computed steps"
            )
        return self._residuals[key]

    def add(self, key: str, hidden_states: Tensor) -> Tensor:
        """`hidden_states` plus the stored residual, as a new tensor.

        Raises: ValueError when the stored residual has another shape or dtype.
        """
        residual = self.get(key)
        if (residual.shape, residual.dtype) != (hidden_states.shape, hidden_states.dtype):
            raise ValueError(
                f"the residual stored for '{key}' is {_describe(residual)}, the hidden states are "
                f"{_describe(hidden_states)}; start a new run when the shape of the latents changes"
            )
        return hidden_states + residual

    def free(self) -> None:
        """Let go of everything."""
        self._residuals.clear()

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return sum(residual.nbytes for residual in self._residuals.values())


def _describe(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
