# Open-Sora-Plan v1.1.0, 65 frames (fetched on first use; the text encoder is most of it).
image_size = (512, 512)
num_frames = 65  # the model's own length, 17 latent frames; 1 makes an image
fps = 24

prompt_path = "assets/prompts/gallery.txt"
seed = 1024
batch_size = 1
dtype = "fp16"

# Its captions carry no scores, and it is not told the size of a video.
aes = None
flow = None
multi_resolution = None

model = dict(
    type="LatteT2V",
    from_pretrained="LanguageBind/Open-Sora-Plan-v1.1.0/65x512x512",
)
vae = dict(
    type="CausalVAE",
    from_pretrained="LanguageBind/Open-Sora-Plan-v1.1.0/vae",
    tiling=True,  # as the published videos were decoded; without it pixels differ, and so does the memory
)
text_encoder = dict(
    type="t5",
    from_pretrained="DeepFloyd/t5-v1_1-xxl",
    model_max_length=300,
)
scheduler = dict(
    type="pndm",
    num_sampling_steps=150,  # 159 calls of the model: the first three steps take four each
    cfg_scale=7.5,
)
