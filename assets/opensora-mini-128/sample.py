# The second mini model, in training, every step computed: 128 x 128 pixels, more shapes, words, sizes and places.
_base_ = "../../configs/_base_/mini.py"

image_size = (128, 128)
calibration = None

model = dict(from_pretrained="assets/opensora-mini-128/transformer")
vae = dict(from_pretrained="assets/opensora-mini-128/vae")
text_encoder = dict(from_pretrained="assets/opensora-mini-128/text_encoder", model_max_length=32)
scheduler = dict(base_resolution=128 * 128, cfg_scale=3.0)
