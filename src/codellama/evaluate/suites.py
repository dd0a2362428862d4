"""Suites by name. A module is imported when one of its suites is asked for."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from codellama.errors import NotFoundError
from codellama.evaluate.asks import Model
from codellama.evaluate.data import Data
from codellama.evaluate.languages import LANGUAGES
from codellama.evaluate.suite import Options, Suite

__all__ = ["SUITES", "make_suite", "suite_class"]

# Name → (module, class).
SUITES: dict[str, tuple[str, str]] = {
    "humaneval": ("programs", "HumanEval"),
    "humaneval-instruct": ("programs", "HumanEvalInstruct"),
    "mbpp": ("programs", "Mbpp"),
    "mbpp-instruct": ("programs", "MbppInstruct"),
    **{f"multipl-e-{code}": ("multipl_e", code) for code in LANGUAGES},
    "apps": ("apps", "Apps"),
    "apps-instruct": ("apps", "AppsInstruct"),
    "humaneval-infilling-single-line": ("infilling", "SingleLine"),
    "humaneval-infilling-multi-line": ("infilling", "MultiLine"),
    "humaneval-infilling-random-span": ("infilling", "RandomSpan"),
    "humaneval-infilling-random-span-light": ("infilling", "RandomSpanLight"),
    "santacoder-fim-py": ("infilling", "SantacoderPython"),
    "santacoder-fim-java": ("infilling", "SantacoderJava"),
    "santacoder-fim-js": ("infilling", "SantacoderJavaScript"),
    "docstring-infilling": ("infilling", "DocstringInfilling"),
    "perplexity": ("longcontext", "Perplexity"),
    "key-retrieval": ("longcontext", "KeyRetrieval"),
    "lcc-style": ("longcontext", "LccStyle"),
    "truthfulqa": ("truthfulqa", "TruthfulQaMc"),
    "truthfulqa-generation": ("truthfulqa", "TruthfulQaGeneration"),
    "toxigen": ("safety", "Toxigen"),
    "bold": ("safety", "Bold"),
    "gsm8k": ("gsm8k", "Gsm8k"),
}


def suite_class(name: str) -> type[Suite]:
    """Raises NotFoundError, with the nearest names."""
    if name not in SUITES:
        near = get_close_matches(name, SUITES, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "see `codellama evaluate` for all"
        raise NotFoundError(f"no suite {name!r}: {hint}")
    module, attribute = SUITES[name]
    loaded = import_module(f"codellama.evaluate.{module}")
    named = loaded.BY_LANGUAGE if module == "multipl_e" else vars(loaded)
    found: type[Suite] = named[attribute]
    return found


def make_suite(
    name: str, data: Data, options: Options | None = None, model: Model | None = None
) -> Suite:
    """A suite, ready to run. Raises NotFoundError for a name that there is not."""
    return suite_class(name)(data, options or Options(), model)  # type: ignore[arg-type,call-arg]
