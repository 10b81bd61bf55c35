#!/usr/bin/env bash
# Prepares the Python environment of the commands: `source scripts/setup_env.sh run` sets $PYTHON to its interpreter.
#
# An active virtual or conda environment is used (its torch is kept from 2.6 on, other packages move to the pinned versions);
# otherwise ./.venv is made. Nothing is installed elsewhere.
# A stamp inside the environment says what is installed, so a second call returns at once; after an interrupted
# call the next one starts over. "dev" instead of "run" adds what run_tests.sh needs.
set -euo pipefail

SETUP_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." >/dev/null && pwd) # with CDPATH, cd prints where it went
SETUP_LEVEL=${1:-run}

say() { printf '[set-up] %s\n' "$*" >&2; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Pip answers Ctrl-C as if its installation had failed.
interrupted() {
    printf 'error: the set-up was interrupted; the same command starts it again\n' >&2
    exit 130
}

has_python_version() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in python3.11 python3 python python3.12 python3.13; do
        if command -v "$candidate" >/dev/null && has_python_version "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found; install one (Debian, Ubuntu: apt install python3 python3-venv) and run again"
}

# The environment to use. Conda's base environment counts as none: it is shared by everything on the machine.
choose_environment() {
    if [[ -n ${VIRTUAL_ENV:-} ]]; then
        SETUP_ENV=$VIRTUAL_ENV
    elif [[ -n ${CONDA_PREFIX:-} && ${CONDA_DEFAULT_ENV:-base} != base ]]; then
        SETUP_ENV=$CONDA_PREFIX
    else
        SETUP_ENV=$SETUP_ROOT/.venv
    fi
    PYTHON=$SETUP_ENV/bin/python
    STAMP=$SETUP_ENV/.opensora-adacache-$SETUP_LEVEL
}

uses_own_venv() { [[ $SETUP_ENV == "$SETUP_ROOT/.venv" ]]; }

# What the stamp must say: a fingerprint of the interpreter, this checkout and everything that decides what is installed.
fingerprint() {
    "$PYTHON" -I -S -c '
import hashlib, sys
from pathlib import Path
digest = hashlib.sha256(f"{sys.version} {sys.argv[1]}".encode())
for name in ("requirements.txt", "requirements-colossalai.txt", "requirements-dev.txt", "setup.py"):
    digest.update(Path(sys.argv[1], name).read_bytes())
print(digest.hexdigest())
' "$SETUP_ROOT"
}

is_ready() { [[ -f $STAMP && -x $PYTHON && $(<"$STAMP") == $(fingerprint) ]]; }

# Whether the environment has all packages in versions that work, where nothing can be written: in a checkout that is
# mounted read-only, or with an environment that belongs to somebody else. The checkout need not be installed into it.
is_complete() {
    local extra unmet
    if [[ -w $SETUP_ROOT && (-w $SETUP_ENV || ! -e $SETUP_ENV) ]]; then return 1; fi
    [[ $SETUP_LEVEL == dev ]] && extra=dev
    [[ -x $PYTHON ]] || fail "$SETUP_ROOT cannot be written to; activate an environment that has the packages, or copy it"
    unmet=$("$PYTHON" -c '
import sys
sys.path.insert(0, sys.argv[1])
from opensora.environment import unmet_requirements
print(*unmet_requirements(sys.argv[2]), sep=", ")
' "$SETUP_ROOT" "${extra:-}") || fail "$PYTHON cannot be used; its message is above"
    [[ -z $unmet ]] ||
        fail "nothing can be installed ($SETUP_ROOT or $SETUP_ENV cannot be written to), but $SETUP_ENV lacks $unmet"
}

# Only ./.venv is ours to make. A marker beside it tells a half-made one, which is thrown away, from a complete one.
make_venv() {
    local python
    if [[ -x $PYTHON && ! -e $SETUP_ROOT/.venv-unfinished ]]; then
        return
    fi
    python=$(find_python)
    say "creating .venv with $("$python" --version)"
    touch "$SETUP_ROOT/.venv-unfinished"
    "$python" -m venv --clear "$SETUP_ENV" >/dev/null 2>&1 ||
        fail "$python cannot create virtual environments (Debian, Ubuntu: apt install python3-venv)"
}

pip_install() {
    local what=$1 quiet=(--quiet)
    shift
    # On a terminal pip's own progress bars show what is going on during the long download.
    if [[ -t 2 ]]; then quiet=(); fi
    say "installing $what"
    # That colossalai pins older versions is known, and no error.
    "$PYTHON" -m pip install --disable-pip-version-check --no-warn-conflicts --no-input ${quiet[@]+"${quiet[@]}"} "$@" >&2 ||
        fail "pip could not install $what; its message is above; once it is solved, run the same command again"
}

# A torch that the user's own environment already has (say, built for its CUDA) is kept if it is new enough.
kept_torch() {
    if uses_own_venv; then return; fi
    "$PYTHON" -c '
from importlib.metadata import PackageNotFoundError, version
try:
    installed = version("torch")
except PackageNotFoundError:
    raise SystemExit
if tuple(int(part) for part in installed.split("+")[0].split(".")[:2]) >= (2, 6):
    print(installed)
'
}

install() {
    local requirements=$SETUP_ROOT/requirements.txt torch filtered
    [[ $SETUP_LEVEL == dev ]] && requirements=$SETUP_ROOT/requirements-dev.txt
    "$PYTHON" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m ensurepip --upgrade >/dev/null 2>&1 ||
        fail "the environment $SETUP_ENV has no pip; install it there and run again"
    # From here on the stamps no longer hold, and a .venv that had one is half-made until `finish`.
    if compgen -G "$SETUP_ROOT/.venv/.opensora-adacache-*" >/dev/null && uses_own_venv; then
        touch "$SETUP_ROOT/.venv-unfinished"
    fi
    rm -f "$SETUP_ENV"/.opensora-adacache-*
    torch=$(kept_torch)
    if [[ -n $torch ]]; then
        say "keeping torch $torch of $SETUP_ENV"
        filtered=$(mktemp -d)
        grep -v '^torch==' "$SETUP_ROOT/requirements.txt" >"$filtered/requirements.txt"
        cp "$SETUP_ROOT/requirements-dev.txt" "$filtered/"
        printf 'torch==%s\n' "$torch" >"$filtered/constraints.txt"
        pip_install "the requirements" -r "$filtered/$(basename "$requirements")" -c "$filtered/constraints.txt"
        rm -r "$filtered"
    else
        pip_install "the requirements (on the first run 1.7 GB with torch, a few minutes)" -r "$requirements"
    fi
    pip_install colossalai --no-deps --no-build-isolation -r "$SETUP_ROOT/requirements-colossalai.txt"
    pip_install "this package" --no-deps --no-build-isolation -e "$SETUP_ROOT"
}

# The stamp comes last: without it the next call installs again. The dev set-up contains the other one.
finish() {
    fingerprint >"$SETUP_ENV/.opensora-adacache-run"
    [[ $SETUP_LEVEL == dev ]] && fingerprint >"$SETUP_ENV/.opensora-adacache-dev"
    if uses_own_venv; then rm -f "$SETUP_ROOT/.venv-unfinished"; fi
}

setup_environment() {
    choose_environment
    if is_ready || is_complete; then return; fi
    # Two first runs at once take turns, and the second one finds everything done.
    if command -v flock >/dev/null; then
        exec 9>"$SETUP_ROOT/.venv-lock"
        flock --nonblock 9 || { say "another set-up is running; waiting for it" && flock 9; }
    fi
    if ! is_ready; then
        local start=$SECONDS
        if uses_own_venv; then make_venv; fi
        [[ -x $PYTHON ]] || fail "the active environment $SETUP_ENV has no bin/python; deactivate it and run again"
        local remedy="deactivate it"
        if uses_own_venv; then remedy="remove it"; fi
        has_python_version "$PYTHON" ||
            fail "$SETUP_ENV has $("$PYTHON" --version 2>&1), but Python 3.11 or newer is needed; $remedy and run again"
        trap interrupted INT
        install
        finish
        trap - INT
        say "ready after $((SECONDS - start)) s ($SETUP_ENV)"
    fi
    exec 9>&-
}

setup_environment
