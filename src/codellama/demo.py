"""What `make run` shows: a function completed, a middle filled, a question answered, what next."""

from __future__ import annotations

import sys
import time

__all__ = ["main"]

FUNCTION = "def largest(numbers):\n    best = numbers[0]\n    for"
PREFIX = "def mean(values):\n    total = 0\n    for value in values:\n"
SUFFIX = "    return total / len(values)\n"
QUESTION = "What does the enumerate function do in Python? Answer in two sentences."
NEXT = """
Go on:
  codellama run                                  talk to it (/? for help)
  codellama run "Explain list slicing"           one answer
  echo "def fib(n):" | codellama complete        complete code from standard input
  codellama serve                                for editors: three APIs on one port
  codellama show codellama-smol:135m             what the model is, and the memory it needs
  codellama pull codellama:7b-code               Code Llama itself (4 GB)
The command is .venv/bin/codellama; `source .venv/bin/activate` puts it on the path.
"""


def main() -> None:
    """Load the default model and stream both answers."""
    from codellama import CodeLlama
    from codellama.api.chatting import without_circles
    from codellama.hub import resolve
    from codellama.hub.catalogue import DEFAULT_MODEL

    begin = time.perf_counter()
    llm = CodeLlama.load(resolve(DEFAULT_MODEL, pull=True))
    _say(f"{DEFAULT_MODEL}, loaded in {time.perf_counter() - begin:.2f} s\n")
    _heading("A function, completed")
    sys.stdout.write(FUNCTION)
    for piece in llm.stream(FUNCTION, temperature=0.0, max_tokens=80, stop=["\n\n", "\nprint"]):
        _say(piece)
    _heading("\n\nA middle, filled: what comes before it and after it is given")
    middle = llm.infill(PREFIX, SUFFIX, temperature=0.0, max_tokens=40).text
    _say(PREFIX + _bold(middle.rstrip("\n")) + "\n" + SUFFIX)
    _heading("\nA question, answered")
    _say(f"> {QUESTION}\n")
    begin, count = time.perf_counter(), 0
    message = {"role": "user", "content": QUESTION}
    params = without_circles(llm, {"temperature": 0.0, "max_tokens": 100})
    with llm.stream_chat([message], **params) as pieces:
        for piece in pieces:
            _say(piece)
        if pieces.completion is not None:
            count = pieces.completion.usage.completion_tokens
    _say(f"\n\n{count / (time.perf_counter() - begin):.0f} tokens a second on this machine\n")
    _say(NEXT)


def _heading(text: str) -> None:
    _say(f"{_bold(text)}\n")


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
