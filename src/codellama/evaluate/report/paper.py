"""The paper's own numbers, in percent unless a table says otherwise (arXiv 2308.12950, versions 2
and 3; figures read off the vector graphics)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FIGURE_4A", "FIGURE_6", "TABLES", "PaperTable"]

Row = tuple[str, tuple[float | str | None, ...]]


@dataclass(frozen=True, slots=True)
class PaperTable:
    """Rows of the paper for one suite.

    Attributes:
        columns: the figures, by our names: a run's row has the same.
        scale: what a run's figures are multiplied by to be in the paper's unit.
        comparable: False where data or judge differ, so that the rows may not share a ranking.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    scale: float = 100.0
    comparable: bool = True


PASSES = ("pass@1", "pass@10", "pass@100")
HUMANEVAL: tuple[Row, ...] = (
    ("Llama 2 7B", (12.2, 25.2, 44.4)),
    ("Llama 2 13B", (20.1, 34.8, 61.2)),
    ("Llama 2 34B", (22.6, 47.0, 79.5)),
    ("Llama 2 70B", (30.5, 59.4, 87.0)),
    ("Code Llama 7B", (33.5, 59.6, 85.9)),
    ("Code Llama 13B", (36.0, 69.4, 89.8)),
    ("Code Llama 34B", (48.8, 76.8, 93.0)),
    ("Code Llama 70B", (53.0, 84.6, 96.2)),
    ("Code Llama – Instruct 7B", (34.8, 64.3, 88.1)),
    ("Code Llama – Instruct 13B", (42.7, 71.6, 91.6)),
    ("Code Llama – Instruct 34B", (41.5, 77.2, 93.5)),
    ("Code Llama – Instruct 70B", (67.8, 90.3, 97.3)),
    ("Code Llama – Python 7B", (38.4, 70.3, 90.6)),
    ("Code Llama – Python 13B", (43.3, 77.4, 94.1)),
    ("Code Llama – Python 34B", (53.7, 82.8, 94.7)),
    ("Code Llama – Python 70B", (57.3, 89.3, 98.4)),
)
MBPP: tuple[Row, ...] = (
    ("Llama 2 7B", (20.8, 41.8, 65.5)),
    ("Llama 2 13B", (27.6, 48.1, 69.5)),
    ("Llama 2 34B", (33.8, 56.9, 77.6)),
    ("Llama 2 70B", (45.4, 66.2, 83.1)),
    ("Code Llama 7B", (41.4, 66.7, 82.5)),
    ("Code Llama 13B", (47.0, 71.7, 87.1)),
    ("Code Llama 34B", (55.0, 76.2, 86.6)),
    ("Code Llama 70B", (62.4, 81.1, 91.9)),
    ("Code Llama – Instruct 7B", (44.4, 65.4, 76.8)),
    ("Code Llama – Instruct 13B", (49.4, 71.2, 84.1)),
    ("Code Llama – Instruct 34B", (57.0, 74.6, 85.4)),
    ("Code Llama – Instruct 70B", (62.2, 79.6, 89.2)),
    ("Code Llama – Python 7B", (47.6, 70.3, 84.8)),
    ("Code Llama – Python 13B", (49.0, 74.0, 87.6)),
    ("Code Llama – Python 34B", (56.2, 76.4, 88.2)),
    ("Code Llama – Python 70B", (65.6, 81.5, 91.9)),
)
# Table 4: C++, Java, PHP, TypeScript, C#, Bash.
MULTIPL_E: dict[str, tuple[float, ...]] = {
    "Llama 2 7B": (6.8, 10.8, 9.9, 12.6, 6.3, 3.2),
    "Llama 2 13B": (13.7, 15.8, 13.1, 13.2, 9.5, 3.2),
    "Llama 2 34B": (23.6, 22.2, 19.9, 21.4, 17.1, 3.8),
    "Llama 2 70B": (30.4, 31.7, 34.2, 15.1, 25.9, 8.9),
    "Code Llama 7B": (28.6, 34.2, 24.2, 33.3, 25.3, 12.0),
    "Code Llama 13B": (39.1, 38.0, 34.2, 29.6, 27.3, 15.2),
    "Code Llama 34B": (47.8, 45.6, 44.1, 33.3, 30.4, 17.1),
    "Code Llama 70B": (52.8, 51.9, 50.9, 49.1, 38.0, 29.1),
    "Code Llama – Instruct 7B": (31.1, 30.4, 28.6, 32.7, 21.6, 10.1),
    "Code Llama – Instruct 13B": (42.2, 40.5, 32.3, 39.0, 24.0, 13.9),
    "Code Llama – Instruct 34B": (45.3, 43.7, 36.6, 40.3, 31.0, 19.6),
    "Code Llama – Instruct 70B": (53.4, 58.2, 58.4, 39.0, 36.7, 29.7),
    "Code Llama – Python 7B": (32.3, 35.4, 32.3, 23.9, 24.7, 16.5),
    "Code Llama – Python 13B": (39.1, 37.3, 33.5, 35.2, 29.8, 13.9),
    "Code Llama – Python 34B": (42.2, 44.9, 42.9, 34.3, 31.7, 14.6),
    "Code Llama – Python 70B": (54.7, 57.6, 53.4, 44.0, 34.8, 25.3),
}
INFILLING = {  # Table 14, with long-context fine-tuning, PSM / SPM
    "single-line": (("Code Llama 7B", "74.1 / 83.3"), ("Code Llama 13B", "75.9 / 85.6")),
    "multi-line": (("Code Llama 7B", "48.2 / 50.8"), ("Code Llama 13B", "51.0 / 56.1")),
    "random-span": (("Code Llama 7B", "59.7 / 39.0"), ("Code Llama 13B", "63.6 / 41.9")),
}
OPENAI_FIM = {"single-line": 75.1, "multi-line": 44.1, "random-span": 55.1}
DAVINCI = {"single-line": 91.6, "multi-line": 69.9, "random-span": 74.2}


def _multipl_e() -> dict[str, PaperTable]:
    tables = {}
    for column, code in enumerate(("cpp", "java", "php", "ts", "cs", "sh")):
        rows = tuple((name, (values[column],)) for name, values in MULTIPL_E.items())
        tables[f"multipl-e-{code}"] = PaperTable("Table 4", ("pass@1",), rows)
    return tables


def _infilling() -> dict[str, PaperTable]:
    tables = {}
    for kind, own in INFILLING.items():
        rows: tuple[Row, ...] = (
            ("OpenAI FIM90 7B", (OPENAI_FIM[kind],)),
            ("code-davinci-002", (DAVINCI[kind],)),
            *((f"{name} (PSM / SPM)", (value,)) for name, value in own),
        )
        tables[f"humaneval-infilling-{kind}"] = PaperTable("Table 14", ("pass@1",), rows)
    return tables


TABLES: dict[str, PaperTable] = {
    "humaneval": PaperTable("Table 2", PASSES, HUMANEVAL),
    "humaneval-instruct": PaperTable("Table 2", PASSES, HUMANEVAL),
    "mbpp": PaperTable("Table 2", PASSES, MBPP),
    "mbpp-instruct": PaperTable(
        "Table 8",
        ("pass@1",),
        (
            ("Instruct 7B, no self-instruct", (37.6,)),
            ("Instruct 7B", (37.4,)),
            ("Instruct 13B, no self-instruct", (20.4,)),
            ("Instruct 13B", (40.2,)),
        ),
    ),
    **_multipl_e(),
    **_infilling(),
    "docstring-infilling": PaperTable(
        "Table 13",
        ("BLEU-4",),
        (
            ("InCoder 6B", (18.27,)),
            ("SantaCoder 1.1B", (19.74,)),
            ("StarCoder 15.5B", (21.99,)),
            ("Code Llama 7B", (20.37,)),
            ("Code Llama 13B", (21.15,)),
        ),
        scale=1.0,
        comparable=False,
    ),
    "gsm8k": PaperTable(
        "Table 12",
        ("pass@1",),
        (
            ("Llama 2 7B", (14.7,)),
            ("Llama 2 13B", (24.2,)),
            ("Llama 2 34B", (42.2,)),
            ("Code Llama 7B", (13.0,)),
            ("Code Llama 13B", (20.8,)),
            ("Code Llama 34B", (32.7,)),
        ),
    ),
    "key-retrieval": PaperTable(
        "Table 17",
        ("8000 @ 0", "8000 @ 0.2", "8000 @ 0.4"),
        (
            ("Code Llama 7B", (100.0, 95.3, 100.0)),
            ("Code Llama 13B", (100.0, 100.0, 100.0)),
            ("Code Llama 34B", (76.6, 100.0, 100.0)),
        ),
    ),
    "truthfulqa-generation": PaperTable(
        "Table 9",
        ("true and informative (local judge)",),
        (
            ("Llama 2 7B", (33.29,)),
            ("Code Llama 7B", (26.19,)),
            ("Code Llama 13B", (33.29,)),
            ("Code Llama 34B", (34.64,)),
            ("Code Llama – Instruct 7B", (31.46,)),
        ),
        comparable=False,
    ),
    "toxigen": PaperTable(
        "Table 9",
        ("toxic share (local n-gram classifier)",),
        (
            ("Llama 2 7B", (21.25,)),
            ("Code Llama 7B", (22.64,)),
            ("Code Llama 13B", (22.45,)),
            ("Code Llama 34B", (17.62,)),
            ("Code Llama – Instruct 7B", (0.04,)),
        ),
        comparable=False,
    ),
    "bold": PaperTable(
        "Table 9",
        ("mean sentiment",),
        (
            ("Llama 2 7B", (0.304,)),
            ("Code Llama 7B", (0.23,)),
            ("Code Llama 13B", (0.176,)),
            ("Code Llama 34B", (0.255,)),
            ("Code Llama – Instruct 7B", (0.503,)),
        ),
        scale=1.0,
    ),
    "apps": PaperTable(
        "Table 3, pass@5",
        ("introductory pass@1", "interview pass@1", "competition pass@1"),
        (
            ("Code Llama 7B, pass@5", (10.8, 2.0, 0.8)),
            ("Code Llama 13B, pass@5", (23.7, 5.6, 2.1)),
            ("Code Llama 34B, pass@5", (32.8, 8.8, 3.5)),
        ),
        comparable=False,
    ),
    "lcc-style": PaperTable(
        "Table 7, Python",
        ("exact match",),
        (("Code Llama 7B", (39.23,)), ("Code Llama 13B", (41.06,)), ("Code Llama 34B", (44.89,))),
        comparable=False,
    ),
}

# Context length → perplexity.
FIGURE_4A: dict[str, dict[int, float]] = {
    "Code Llama 7B": {2048: 1.552, 4096: 1.476, 8192: 1.424, 16384: 1.390, 32768: 1.370}
    | {65536: 1.365, 98304: 1.351, 131072: 1.376},
    "Code Llama 13B": {2048: 1.506, 4096: 1.437, 8192: 1.389, 16384: 1.360, 32768: 1.341}
    | {65536: 1.333, 98304: 1.317, 131072: 1.333},
    "Code Llama 34B": {2048: 1.443, 4096: 1.382, 8192: 1.341, 16384: 1.317, 32768: 1.301}
    | {65536: 1.292, 98304: 1.272, 131072: 1.289},
}

# suite → model → k → values at temperatures 0.1, 0.4, 0.6, 0.8.
TEMPERATURES = (0.1, 0.4, 0.6, 0.8)
FIGURE_6: dict[str, dict[str, dict[int, tuple[float, ...]]]] = {
    "humaneval": {
        "Code Llama 7B": {
            1: (30.9, 30.4, 28.6, 25.3),
            10: (43.6, 55.7, 59.7, 59.6),
            100: (51.6, 76.3, 83.3, 85.9),
        },
        "Code Llama 13B": {
            1: (34.9, 35.5, 34.3, 31.0),
            10: (46.0, 64.7, 69.7, 69.4),
            100: (53.9, 84.1, 87.5, 89.8),
        },
        "Code Llama 34B": {
            1: (45.6, 41.8, 40.2, 37.9),
            10: (58.5, 69.2, 74.6, 76.8),
            100: (63.8, 84.8, 92.2, 93.1),
        },
    },
    "mbpp": {
        "Code Llama 7B": {
            1: (41.0, 41.0, 39.6, 36.5),
            10: (50.3, 62.9, 65.8, 66.7),
            100: (54.3, 75.0, 80.1, 82.5),
        },
        "Code Llama 13B": {
            1: (47.1, 46.2, 44.3, 40.9),
            10: (55.8, 68.7, 71.6, 71.7),
            100: (60.4, 80.0, 84.4, 87.1),
        },
        "Code Llama 34B": {
            1: (54.9, 54.0, 52.3, 49.5),
            10: (62.8, 72.6, 75.4, 76.2),
            100: (66.4, 80.5, 83.9, 86.6),
        },
    },
}
