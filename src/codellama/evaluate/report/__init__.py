"""One page about many runs: tables beside the paper's, figures, every problem with its verdict.

`write_report` reads run folders (run.py) and writes a self-contained HTML page and the same tables
as Markdown. It computes no score.
"""

from __future__ import annotations

from codellama.evaluate.report.page import write_report

__all__ = ["write_report"]
