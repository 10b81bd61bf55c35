# Latte-1, every step computed.
_base_ = "../_base_/latte.py"

save_dir = "samples/latte/baseline"
