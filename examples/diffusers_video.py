"""A video with AdaCache from a model of diffusers (--help lists them): python examples/diffusers_video.py wan

The first run downloads the weights, unless --model names a folder that has them. A program of yours needs only this:

    pipe = WanPipeline.from_pretrained("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", torch_dtype=torch.bfloat16).to("cuda")
    handle = apply_adacache(pipe, "fast30")
    video = pipe("a red panda eats bamboo in the rain", num_inference_steps=50).frames[0]
    export_to_video(video, "wan.mp4", fps=16)
    print("computed steps:", handle.trace.computed_steps)
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed works, too

from opensora.environment import enter_environment  # noqa: E402

# What `make_video` does not name is an argument of the pipeline's call.
# fmt: off
MODELS: dict[str, dict[str, Any]] = {
    "allegro": dict(
        pipeline="AllegroPipeline", repository="rhymes-ai/Allegro", preset="steps100", vae="float32", tiling=True,
        num_frames=88, height=720, width=1280, num_inference_steps=100, fps=15),
    "cogvideox": dict(
        pipeline="CogVideoXPipeline", repository="THUDM/CogVideoX-2b", dtype="float16",
        num_frames=49, height=480, width=720, num_inference_steps=50, fps=8),
    "cosmos": dict(  # needs the package cosmos_guardrail, too
        pipeline="CosmosTextToWorldPipeline", repository="nvidia/Cosmos-1.0-Diffusion-7B-Text2World",
        num_frames=121, height=704, width=1280, num_inference_steps=36, fps=30),
    "easyanimate": dict(
        pipeline="EasyAnimatePipeline", repository="alibaba-pai/EasyAnimateV5.1-7b-zh-diffusers", tiling=True,
        num_frames=49, height=512, width=512, num_inference_steps=50, fps=8),
    "helios": dict(  # 33 frames are a section; longer videos have more, each its own run
        pipeline="HeliosPipeline", repository="BestWishYsh/Helios-Base", vae="float32",
        num_frames=33, height=384, width=640, num_inference_steps=50, fps=24),
    "hunyuan_video": dict(
        pipeline="HunyuanVideoPipeline", repository="hunyuanvideo-community/HunyuanVideo", tiling=True,
        num_frames=61, height=320, width=512, num_inference_steps=30, fps=15),
    "hunyuan_video15": dict(
        pipeline="HunyuanVideo15Pipeline", tiling=True,
        repository="hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v",
        num_frames=61, height=480, width=832, num_inference_steps=30, fps=24),
    "kandinsky5": dict(
        pipeline="Kandinsky5T2VPipeline", repository="kandinskylab/Kandinsky-5.0-T2V-Lite-sft-5s-Diffusers",
        num_frames=121, height=512, width=768, num_inference_steps=50, fps=24),
    "kandinsky6": dict(
        pipeline="Kandinsky6TI2VAPipeline", repository="kandinskylab/Kandinsky-6.0-Pro-distill-5s-Diffusers",
        sound=True, guidance_scale=1.0, num_frames=121, height=480, width=864, num_inference_steps=16, fps=24),
    "latte": dict(
        pipeline="LattePipeline", repository="maxin-cn/Latte-1", dtype="float16",
        video_length=16, height=512, width=512, num_inference_steps=50, fps=8),
    "ltx": dict(
        pipeline="LTXPipeline", repository="Lightricks/LTX-Video",
        num_frames=97, height=480, width=704, num_inference_steps=50, fps=24),
    "ltx2": dict(
        pipeline="LTX2Pipeline", repository="Lightricks/LTX-2", sound=True,
        num_frames=121, height=512, width=768, num_inference_steps=30, fps=24),
    "mochi": dict(
        pipeline="MochiPipeline", repository="genmo/mochi-1-preview", tiling=True,
        num_frames=85, height=480, width=848, num_inference_steps=64, fps=30),
    "motif": dict(
        pipeline="MotifVideoPipeline", repository="Motif-Technologies/Motif-Video-2B",
        num_frames=121, height=736, width=1280, num_inference_steps=50, fps=24),
    "sana_video": dict(
        pipeline="SanaVideoPipeline", repository="Efficient-Large-Model/SANA-Video_2B_480p_diffusers", vae="float32",
        frames=81, height=480, width=832, num_inference_steps=50, fps=16),
    "skyreels_v2": dict(
        pipeline="SkyReelsV2Pipeline", repository="Skywork/SkyReels-V2-T2V-14B-540P-Diffusers", vae="float32",
        num_frames=97, height=544, width=960, num_inference_steps=50, fps=24),
    "wan": dict(
        pipeline="WanPipeline", repository="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", vae="float32",
        num_frames=81, height=480, width=832, num_inference_steps=50, fps=16),
    "wan22": dict(  # one schedule over its two transformers
        pipeline="WanPipeline", repository="Wan-AI/Wan2.2-T2V-A14B-Diffusers", vae="float32",
        num_frames=81, height=480, width=832, num_inference_steps=40, fps=16),
}
# fmt: on


def make_video(
    name: str,
    prompt: str,
    *,
    pipeline: str,
    repository: str,
    fps: int,
    dtype: str = "bfloat16",
    vae: str = "",  # the autoencoder's dtype, if it is another one
    tiling: bool = False,  # whether the autoencoder decodes tile by tile
    sound: bool = False,  # whether the model makes a sound, too
    preset: str = "fast30",
    **call: Any,
) -> None:
    """Sample a video of `prompt`, and write it and its trace into the current folder."""
    import diffusers  # not at the top, so that --help and wrong arguments are answered at once
    import torch
    from diffusers.utils import export_to_video

    from adacache.integrations.diffusers import apply_adacache

    dtypes = {"default": getattr(torch, dtype), "vae": getattr(torch, vae or dtype)}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe = getattr(diffusers, pipeline).from_pretrained(repository, torch_dtype=dtypes).to(device)
    if tiling:
        pipe.vae.enable_tiling()
    handle = apply_adacache(pipe, preset)
    result = pipe(prompt, output_type="np", **call)
    if sound:
        audio = torch.atleast_2d(torch.as_tensor(result.audio[0])).float().cpu()
        rate = getattr(pipe, "audio_sample_rate", None) or pipe.vocoder.config.output_sampling_rate
        diffusers.utils.encode_video(result.frames[0], fps, f"{name}.mp4", audio=audio, audio_sample_rate=rate)
    else:
        export_to_video(result.frames[0], f"{name}.mp4", fps=fps)
    print("computed steps:", handle.trace.computed_steps)
    handle.trace.save(f"{name}.trace.json")


def main() -> None:
    """Make the video that the command line asks for."""
    parser = argparse.ArgumentParser(description="Sample a video with AdaCache from a published model of diffusers.")
    parser.add_argument("name", choices=MODELS, metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--model", metavar="FOLDER", help="a folder with the weights (default: download them)")
    parser.add_argument("--prompt", default="a red panda eats bamboo in the rain", metavar="TEXT")
    options = parser.parse_args()
    if options.model is not None and not Path(options.model).is_dir():
        parser.error(f"--model {options.model} is not a folder")
    model = MODELS[options.name]
    try:
        make_video(options.name, options.prompt, **{**model, "repository": options.model or model["repository"]})
    except OSError as error:
        if error.errno is not None:  # the system's own errors have numbers; those of missing weights have none
            raise
        reason = " ".join(str(error).split()).split(". ")[0].split(" (")[0].rstrip(".")
        sys.exit(f"error: {reason}; with a network the weights are downloaded, else give --model FOLDER")


if __name__ == "__main__":
    enter_environment()
    main()
