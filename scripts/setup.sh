#!/usr/bin/env bash
# Everything from nothing: Debian packages that are missing, a virtual environment, the engine built, the default model.
#   scripts/setup.sh run   what `codellama` needs to run
#   scripts/setup.sh dev   that, and what tests and training need (PyTorch among them)
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-run}

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

install_packages() {
    local missing=()
    command -v c++ >/dev/null || missing+=(g++)
    command -v make >/dev/null || missing+=(make)
    [ ${#missing[@]} -eq 0 ] && [ $# -eq 0 ] && return
    command -v apt-get >/dev/null || fail "please install: ${missing[*]} $*"
    local sudo=()
    [ "$(id -u)" -eq 0 ] || sudo=(sudo)
    say "installing ${missing[*]} $*"
    "${sudo[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" "$@" >/dev/null
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

python=$(find_python)
if [ -z "$python" ]; then
    install_packages python3 python3-venv python3-dev
    python=$(find_python)
    [ -n "$python" ] || fail "Python 3.11 or newer is needed; set PYTHON to one"
fi
install_packages
# Debian splits the standard library: pip's bootstrap and the headers come in packages of their own.
"$python" -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
"$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' ||
    install_packages python3-dev

if [ ! -x .venv/bin/pip ]; then
    say "creating .venv"
    "$python" -m venv --clear .venv
fi
say "building the engine and installing it into .venv"
extras=""
if [ "$mode" = dev ]; then
    extras="[train,eval,dev]"
    # Tests judge programs in a sandbox.
    command -v bwrap >/dev/null || install_packages bubblewrap
fi
.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".$extras"

say "the default model"
.venv/bin/codellama pull smollm2:135m
