"""Instructions that ARM's kernels execute, counted under an emulator: no ARM machine needed.

    python benchmarks/arm_instructions.py

Builds tests/native/cpp/one_product.cpp for ARM and lets qemu-user log every instruction of a
product done once and done eleven times; the difference is ten products. Printed is what 16 rows by
32 columns of weights cost, per activation row. Counts are no speed: an smmla does twice the
products of an sdot, and how many of either a processor starts in a cycle differs.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "native-neon"
FORMATS = {"Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14}
BLOCKS = 512 // 32
TIMES = 10
CASES = (("neon", 1), ("neon", 2), ("neon", 3), ("i8mm", 2), ("i8mm", 3), ("i8mm", 4))


def build() -> Path:
    flags = [
        "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++", "-DCMAKE_EXE_LINKER_FLAGS=-static",
    ]  # fmt: skip
    for command in (
        ["cmake", "-S", str(ROOT / "tests" / "native" / "cpp"), "-B", str(BUILD), *flags],
        ["cmake", "--build", str(BUILD), "--target", "one_product"],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return BUILD / "one_product"


def executed(program: Path, isa: str, format: int, rows: int, times: int) -> int:
    with tempfile.NamedTemporaryFile() as log:
        emulator = ["qemu-aarch64", "-cpu", "max", "-singlestep", "-d", "exec,nochain"]
        arguments = [isa, str(format), str(rows), str(times)]
        subprocess.run(
            [*emulator, "-D", log.name, str(program), *arguments],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        with open(log.name, "rb") as lines:
            return sum(1 for _ in lines)


def main() -> None:
    program = build()
    print("| format |", " | ".join(f"{isa} x{rows}" for isa, rows in CASES), "|")
    print("|---|" + "---:|" * len(CASES))
    for name, number in FORMATS.items():
        cells = []
        for isa, rows in CASES:
            once, more = (executed(program, isa, number, rows, n) for n in (1, 1 + TIMES))
            cells.append(f"{(more - once) / TIMES / BLOCKS / rows:.0f}")
        print(f"| {name} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
