# The bundled mini model, every step computed.
_base_ = "../_base_/mini.py"

save_dir = "samples/mini/baseline"
