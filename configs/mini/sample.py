# The bundled mini model, every step computed.
_base_ = "../_base_/mini.py"
