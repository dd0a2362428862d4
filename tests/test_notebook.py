"""notebooks/Demonstration.ipynb runs from its first cell to its last."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "Demonstration.ipynb"


@pytest.mark.slow
@pytest.mark.weights
def test_the_demonstration(smollm2_path: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nbformat = pytest.importorskip("nbformat")
        nbclient = pytest.importorskip("nbclient")
        book = nbformat.read(NOTEBOOK, as_version=4)
        assert all(not cell.get("outputs") for cell in book.cells), "outputs are not committed"
        client = nbclient.NotebookClient(
            book,
            timeout=600,
            kernel_name="python3",
            resources={"metadata": {"path": str(tmp_path)}},
        )
        client.execute()
    printed = ["".join(o.get("text", "") for o in c.get("outputs", ())) for c in book.cells]
    assert sum(bool(text.strip()) for text in printed) >= 10
    assert "found computed" in "".join(printed)
