# The bundled mini model: the same classes at small width, trained on moving shapes; made for a laptop's CPU.
image_size = (128, 128)
num_frames = 17
fps = 8

prompt_path = "assets/prompts/mini.txt"
seed = 1024
batch_size = 1
multi_resolution = "STDiT2"
dtype = "fp32"

# Schedules for --speedup, --max-steps-computed and --min-psnr, made by
# python scripts/calibrate.py configs/mini/sample.py --prompt-path assets/prompts/mini_calibration.txt \
#     --fit-clips 16 --held-out-clips 32 --candidates 4 --batch-size 8
calibration = "assets/opensora-mini/calibration.json"

# Its captions carry no scores.
aes = None
flow = None

model = dict(
    type="STDiT3",
    from_pretrained="assets/opensora-mini/transformer",
)
vae = dict(
    type="OpenSoraVAE_V1_2",
    from_pretrained="assets/opensora-mini/vae",
    micro_frame_size=17,
    micro_batch_size=17,
)
text_encoder = dict(
    type="t5",
    from_pretrained="assets/opensora-mini/text_encoder",
    model_max_length=32,
)
scheduler = dict(
    type="rflow",
    use_timestep_transform=True,
    base_resolution=128 * 128,  # what the model was trained with; 512 * 512 for the published one
    num_sampling_steps=30,
    cfg_scale=3.0,
)
