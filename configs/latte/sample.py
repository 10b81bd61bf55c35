# Latte-1, every step computed.
_base_ = "../_base_/latte.py"
