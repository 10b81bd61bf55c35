"""Package metadata; requirements.txt pins the versions that the commands install."""

from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import find_packages, setup

README = Path(__file__).with_name("README.md")
# Not ./build: modules that are gone since the last build would be packed again, and a build that was interrupted would
# make every later one fail.
BUILD = TemporaryDirectory()

setup(
    name="opensora-adacache",
    version="0.1.0",
    description="Open-Sora v1.2 sampling with AdaCache; adaptive caching for any video transformer",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    options={"build": {"build_base": BUILD.name}},
    # Configs, prompts and the mini model are found from any folder (opensora/files.py).
    packages=[
        *find_packages(include=["adacache*", "opensora*"]),
        "opensora.bundled.configs",
        "opensora.bundled.assets",
    ],
    package_dir={"opensora.bundled.configs": "configs", "opensora.bundled.assets": "assets"},
    package_data={
        "opensora.studio": ["*.css", "*.js"],
        "opensora.bundled.configs": ["**/*.py"],
        "opensora.bundled.assets": [
            "prompts/*.txt",
            "opensora-mini/*.json",
            "opensora-mini/**/*.safetensors",
            "opensora-mini/*/*.json",
        ],
    },
    entry_points={"console_scripts": ["opensora = opensora.__main__:main"]},
    # colossalai is never listed: its pins contradict these. See requirements-colossalai.txt.
    install_requires=[
        "torch>=2.6",
        "mmengine>=0.10.3",
        "diffusers>=0.35.2",
        "transformers>=4.56",
        "huggingface_hub>=0.34,<3",
        "av>=12",
        "numpy>=1.26",
        "packaging>=23",
        "pydantic>=2.7,<3",
        "safetensors>=0.4.3",
        "sentencepiece>=0.2",
        "protobuf>=4",
        "ftfy>=6.1",
        "beautifulsoup4>=4.12",
        "matplotlib>=3.8",
        "pillow>=10",
        "tqdm>=4.66",
        "psutil>=5.9",
        "setuptools<82",  # mmengine imports pkg_resources, which newer ones no longer have
    ],
    extras_require={
        "bench": ["pytorch-msssim>=1.0", "jinja2>=3.1", "altair>=6", "vl-convert-python>=1.9"],  # in a checkout
        "dev": ["pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "ruff", "accelerate>=1.1", "peft>=0.17"],
        "int8": ["torchao>=0.15"],  # text_encoder.quantize
        "studio": ["gradio>=6.31,<7"],  # the page of `opensora studio`
        "stream": ["accelerate>=1.1"],  # text_encoder.stream
    },
)
