#!/usr/bin/env bash
# The studio in one command: sets up on the first run, with Gradio, then serves the page. Arguments are those of
# scripts/studio.py.
set -euo pipefail

scripts=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
source "$scripts/setup_env.sh" run

unmet=$("$PYTHON" -c '
import sys
sys.path.insert(0, sys.argv[1])
from opensora.environment import unmet_requirements
print(*unmet_requirements("studio"))
' "$SETUP_ROOT")
if [[ $unmet == *gradio* ]]; then
    pip_install "Gradio, for the page" -r "$SETUP_ROOT/requirements-studio.txt"
fi

# Idle OpenMP threads that spin take the cores from the ones that work.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
exec "$PYTHON" "$scripts/studio.py" "$@"
