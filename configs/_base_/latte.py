# Latte-1 in the layout of diffusers' LattePipeline (fetched on first use; the text encoder is most of it).
image_size = (512, 512)
num_frames = 16  # the model's own length; 1 makes an image
fps = 8

prompt_path = "assets/prompts/gallery.txt"
seed = 1024
batch_size = 1
dtype = "fp16"

# Its captions carry no scores, and it is not told the size of a video.
aes = None
flow = None
multi_resolution = None

model = dict(
    type="Latte",
    from_pretrained="maxin-cn/Latte-1/transformer",
)
vae = dict(
    type="AutoencoderKL",
    from_pretrained="maxin-cn/Latte-1/vae",
    micro_batch_size=4,
)
text_encoder = dict(
    type="t5",
    from_pretrained="maxin-cn/Latte-1/text_encoder",  # its tokenizer is in the folder tokenizer beside it
    model_max_length=120,
)
scheduler = dict(
    type="ddim",
    num_sampling_steps=50,
    cfg_scale=7.5,
    clip_sample=False,
)
