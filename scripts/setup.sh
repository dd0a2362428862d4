#!/usr/bin/env bash
# Everything from nothing: Debian packages that are missing, a virtual environment, the engine built, the default model.
#   scripts/setup.sh run   what `codellama` needs to run
#   scripts/setup.sh dev   that, and what tests and training need (PyTorch among them)
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-run}

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

install_packages() { # names…
    [ $# -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "please install: $*"
    local sudo=()
    [ "$(id -u)" -eq 0 ] || sudo=(sudo)
    say "installing $*"
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null
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

# Whether this Python has what Debian splits off: pip's bootstrap, and the headers.
has_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }
has_headers() {
    "$python" -c 'import os, sysconfig as s; open(os.path.join(s.get_paths()["include"], "Python.h"))' 2>/dev/null
}

python=$(find_python)
missing=()
command -v c++ >/dev/null || missing+=(g++)
[ -n "$python" ] || missing+=(python3)
[ -n "$python" ] && has_venv || missing+=(python3-venv)
[ -n "$python" ] && has_headers || missing+=(python3-dev)
install_packages "${missing[@]}"
python=$(find_python)
[ -n "$python" ] || fail "Python 3.11 or newer is needed; set PYTHON to one"
has_venv || fail "$python has no venv module: install its venv package"
has_headers || fail "$python has no headers (Python.h): install its development package"

if [ ! -x .venv/bin/pip ]; then
    say "creating .venv"
    "$python" -m venv --clear .venv
fi
say "building the engine and installing it into .venv (about a minute)"
extras=""
if [ "$mode" = dev ]; then
    extras="[train,eval,dev]"
    # Tests judge programs in a sandbox.
    command -v bwrap >/dev/null || install_packages bubblewrap
fi
.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".$extras"

say "the default model"
.venv/bin/codellama pull codellama-smol:135m
# Its adapter is put on its base once, here rather than at the first question.
.venv/bin/codellama show codellama-smol:135m >/dev/null
