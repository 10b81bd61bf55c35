#!/usr/bin/env bash
exec bash "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/scripts/run_studio.sh" "$@"
