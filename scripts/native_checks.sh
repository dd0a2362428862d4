#!/usr/bin/env bash
# The engine without Python, under sanitizers and on an emulated ARM processor.
#   scripts/native_checks.sh [asan|tsan|neon|all]   all of them: 2 to 3 minutes on 2 cores
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}
cmake=cmake
[ -x .venv/bin/cmake ] && cmake=.venv/bin/cmake

build() { # folder, flags…
    local folder=build/native-$1
    shift
    "$cmake" -S tests/native/cpp -B "$folder" "$@" >/dev/null
    "$cmake" --build "$folder" -j 2 >/dev/null
    echo "$folder/native_test"
}

# -O1 must replace the sources' own -O3, under which an instruction set's kernels take GCC minutes; checks as calls
# rather than inline halve what is left.
asan() {
    echo "== AddressSanitizer and UndefinedBehaviorSanitizer"
    local flags='-g1 -fsanitize=address,undefined -fno-sanitize-recover=all'
    flags+=' --param asan-instrumentation-with-call-threshold=0'
    "$(build asan -DCODELLAMA_NATIVE_OPTIMIZE=-O1 -DCMAKE_CXX_FLAGS="$flags")"
}

tsan() {
    echo "== ThreadSanitizer"
    "$(build tsan -DCODELLAMA_NATIVE_OPTIMIZE=-O1 -DCMAKE_CXX_FLAGS='-g1 -fsanitize=thread')"
}

neon() {
    echo "== ARM NEON under emulation"
    if ! command -v aarch64-linux-gnu-g++ >/dev/null || ! command -v qemu-aarch64 >/dev/null; then
        echo "skipped: needs the Debian packages g++-aarch64-linux-gnu and qemu-user"
        return
    fi
    local program
    program=$(build neon -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
        -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static)
    qemu-aarch64 -cpu max "$program" i8mm neon portable
    echo "-- a processor without the matrix multiplication of bytes"
    if qemu-aarch64 -cpu cortex-a76 "$program" i8mm >/dev/null; then
        echo "i8mm was run where it is not" >&2
        return 1
    fi
    qemu-aarch64 -cpu cortex-a76 "$program" neon
}

case $what in
    asan | tsan | neon) "$what" ;;
    all) asan && tsan && neon ;;
    *) echo "usage: $0 [asan|tsan|neon|all]" >&2; exit 2 ;;
esac
