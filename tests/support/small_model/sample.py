# The first mini model, every step computed.
_base_ = "base.py"
