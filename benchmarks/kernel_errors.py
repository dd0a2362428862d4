"""Error of the native products against float64, per storage type and instruction set.

    python benchmarks/kernel_errors.py

Prints the table of docs/NUMERICS.md, by the measure of tests/native/test_matmul.py, which holds the
kernels to its ceilings. The float64 product takes the weights as stored, so what is measured is
what the engine adds to them.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from codellama.native import available_isas
from codellama.weights.tensor import GGMLType
from native_support import CEILINGS, REMAINDERS, product_error


def main() -> None:
    isas = available_isas()
    print(f"| type | {' | '.join(isas)} | ceiling |")
    print("|---|" + "---|" * (len(isas) + 1))
    for type in GGMLType:
        worst = [max(product_error(type, shape, isa) for shape in REMAINDERS) for isa in isas]
        cells = [f"{value:.1e}" for value in (*worst, CEILINGS[type.name])]
        print(f"| {type.name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
