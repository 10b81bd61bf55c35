#!/usr/bin/env bash
# Text to image in one command: run_sample_video.sh with videos of one frame. An image that a folder of samples names
# like a prompt's video can be its first frame: run_sample_video.sh CONFIG --reference-path FOLDER.
set -euo pipefail

scripts=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
exec bash "$scripts/run_sample_video.sh" "$@" --num-frames 1
