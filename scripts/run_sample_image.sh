#!/usr/bin/env bash
# Text to image in one command: run_sample_video.sh with videos of one frame. The images can then be first frames:
# with run_sample_video.sh CONFIG --reference-path FOLDER, each video begins with the image of its name.
set -euo pipefail

scripts=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
exec bash "$scripts/run_sample_video.sh" "$@" --num-frames 1
