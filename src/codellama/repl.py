"""The conversation in a terminal: what `codellama run MODEL` opens.

Reads lines through a seam (`read`), writes to a text stream, and holds one session: messages,
parameters and a system message. Ctrl-C stops the answer and not the program. Knows the public API
and nothing below it.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from codellama.errors import CodeLlamaError, RequestError

if TYPE_CHECKING:
    from codellama import CodeLlama
    from codellama.api import TextIterator

__all__ = ["Repl", "timings"]

HELP = '''\
/set parameter NAME VALUE   temperature, top_p, top_k, seed, max_tokens, stop, …
/set system "TEXT"          the system message
/set verbose | quiet        print timings after each answer, or not
/set history | nohistory    remember the conversation, or answer each message alone
/show [info|parameters|system|template|license]
/infill                     a message with <FILL_ME> in it: fill that gap
/clear                      forget the conversation
/load NAME | FILE           another model, or a saved session
/save FILE                  this session: messages and parameters
/list                       models on this machine
/bye                        leave (or Ctrl-D)
"""  begins and ends a message of several lines; Ctrl-C stops an answer.'''

FILL = "<FILL_ME>"
_NUMBERS = {"top_k": int, "seed": int, "max_tokens": int, "repeat_last_n": int, "max_lines": int}


class Repl:
    """One session with a loaded model.

    Args:
        llm: the model. name: what it is called. params: SamplingParams' fields.
        read: gives a line for a prompt, raises EOFError at the end and KeyboardInterrupt for
            Ctrl-C; default the terminal with history and editing.
    """

    def __init__(
        self,
        llm: CodeLlama,
        name: str,
        params: dict[str, Any],
        *,
        system: str | None = None,
        verbose: bool = False,
        load: Callable[[str], CodeLlama],
        read: Callable[[str], str] | None = None,
        out: TextIO | None = None,
    ) -> None:
        self.llm, self.name, self.params = llm, name, dict(params)
        self.system, self.verbose, self.remember = system, verbose, True
        self.messages: list[dict[str, str]] = []
        self._read = read or _terminal()
        self._out = out or sys.stdout
        self._load_model = load

    def loop(self) -> None:
        """Read and answer until /bye or the end of input."""
        self._say(f"{self.name} · /? for help, /bye to leave")
        while True:
            try:
                text = self._message()
            except KeyboardInterrupt:
                self._say("(Ctrl-D or /bye leaves)")
                continue
            except EOFError:
                self._say("")
                return
            if not text.strip():
                continue
            try:
                if text.startswith("/"):
                    if not self._command(text):
                        return
                else:
                    self._answer(text)
            except CodeLlamaError as error:
                self._say(f"{error}")
            except KeyboardInterrupt:  # of a command that takes long: /load
                self._say("(stopped)")

    # Input.

    def _message(self) -> str:
        """One line, or the lines between two triple quotes."""
        line = self._read(">>> ")
        if not line.startswith('"""'):
            return line
        lines = [line[3:]]
        while not lines[-1].endswith('"""'):
            lines.append(self._read("... "))
        lines[-1] = lines[-1][:-3]
        return "\n".join(lines).strip("\n")

    # Answers.

    def _answer(self, text: str) -> None:
        from codellama.api.chatting import is_chat_model, without_circles

        if not is_chat_model(self.llm, self.name):
            self._stream(self.llm.stream(text, **self.params))
            return
        history = self.messages if self.remember else []
        asked = [*history, {"role": "user", "content": text}]
        system = [{"role": "system", "content": self.system}] if self.system else []
        answer = self._stream(
            self.llm.stream_chat([*system, *asked], **without_circles(self.llm, self.params))
        )
        if self.remember:
            self.messages = [*asked, {"role": "assistant", "content": answer}]

    def _infill(self, text: str) -> None:
        if text.count(FILL) != 1:
            raise RequestError(f"write the code with one {FILL} where the middle is missing")
        prefix, suffix = text.split(FILL)
        self._stream(self.llm.stream_infill(prefix, suffix, **self.params))

    def _stream(self, pieces: TextIterator) -> str:
        """Write an answer as it comes; Ctrl-C cuts it short and keeps what was written."""
        begin, first = time.perf_counter(), None
        written: list[str] = []
        try:
            with pieces:
                for piece in pieces:
                    first = first or time.perf_counter()
                    written.append(piece)
                    self._out.write(piece)
                    self._out.flush()
        except KeyboardInterrupt:
            self._out.write(" (stopped)")
        self._say("\n")
        if self.verbose:
            self._say(timings(pieces, begin, first, 0.0))
        return "".join(written)

    # Commands.

    def _command(self, line: str) -> bool:
        """Run one /command; False leaves."""
        verb, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        if verb in ("bye", "exit", "quit"):
            return False
        actions: dict[str, Callable[[str], None]] = {
            "?": lambda _: self._say(HELP),
            "help": lambda _: self._say(HELP),
            "set": self._set,
            "show": self._show,
            "clear": self._clear,
            "load": self._load,
            "save": self._save,
            "list": self._list,
            "infill": lambda text: self._infill(text or self._message()),
        }
        if verb not in actions:
            raise RequestError(f"no command /{verb}: /? lists them")
        actions[verb](rest)
        return True

    def _clear(self, _: str) -> None:
        self.messages = []
        self._say("the conversation is forgotten")

    def _list(self, _: str) -> None:
        from codellama import hub

        for entry in hub.list_models():
            self._say(f"{entry.name}  ({entry.where})")

    def _set(self, rest: str) -> None:
        what, _, value = rest.partition(" ")
        switches = {
            "verbose": ("verbose", True),
            "quiet": ("verbose", False),
            "history": ("remember", True),
            "nohistory": ("remember", False),
        }
        if what in switches:
            setattr(self, *switches[what])
        elif what == "system":
            self.system = value.strip().strip('"') or None
        elif what == "parameter":
            self._set_parameter(value)
        else:
            raise RequestError(
                "/set parameter NAME VALUE, system, verbose, quiet, history or nohistory"
            )

    def _set_parameter(self, text: str) -> None:
        from codellama import SamplingParams

        name, _, value = text.partition(" ")
        new: object
        try:
            new = shlex.split(value) if name == "stop" else _NUMBERS.get(name, float)(value)
        except ValueError:
            kind = "texts, quoted where they have spaces" if name == "stop" else "a number"
            raise RequestError(f"/set parameter {name or 'NAME'} needs {kind}") from None
        SamplingParams.from_keywords({**self.params, name: new})
        self.params[name] = new
        self._say(f"{name} = {new}")

    def _show(self, what: str) -> None:
        if what in ("", "info", "license"):
            from codellama.cli.models import describe

            about = describe(self.name, [])
            keys = ("license",) if what == "license" else tuple(about)
            for key in keys:
                self._say(f"{key}: {about[key]}")
        elif what == "parameters":
            for key, value in self.params.items():
                self._say(f"{key}: {value}")
        elif what == "system":
            self._say(self.system or "(no system message)")
        elif what == "template":
            self._say(self.llm.chat_template or "(no chat template)")
        else:
            raise RequestError("/show info, parameters, system, template or license")

    def _save(self, target: str) -> None:
        if not target:
            raise RequestError("/save FILE")
        session = {
            "model": self.name,
            "system": self.system,
            "parameters": self.params,
            "messages": self.messages,
        }
        path = _session_file(target)
        partial = path.with_name(path.name + ".partial")
        try:
            partial.write_text(json.dumps(session, indent=1), encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise RequestError(f"{path}: {error.strerror}") from None
        self._say(f"saved to {path}")

    def _load(self, target: str) -> None:
        if not target:
            raise RequestError("/load NAME or FILE")
        path = _session_file(target)
        if not path.is_file():
            self.llm, self.name = self._load_model(target), target
            self.messages = []
            self._say(f"{target} is loaded")
            return
        model, messages, params, system = _read_session(path)
        if model != self.name:
            self.llm, self.name = self._load_model(model), model
        self.messages, self.params, self.system = messages, params, system
        self._say(f"{path}: {len(messages)} messages, {model}")

    def _say(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()


def _read_session(
    path: Path,
) -> tuple[str, list[dict[str, str]], dict[str, Any], str | None]:
    """Model, messages, parameters and system message of a saved session, each checked."""
    from codellama import SamplingParams

    try:
        session = json.loads(path.read_text(encoding="utf-8"))
        model, system, params = session["model"], session["system"], dict(session["parameters"])
        messages = [{key: turn[key] for key in ("role", "content")} for turn in session["messages"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise RequestError(f"{path} is no saved session") from None
    texts = [model, *(text for turn in messages for text in turn.values())]
    if not all(isinstance(text, str) for text in texts) or not isinstance(system, str | None):
        raise RequestError(f"{path} is no saved session")
    SamplingParams.from_keywords(params)
    return model, messages, params, system


def timings(pieces: TextIterator, begin: float, first: float | None, load_s: float) -> str:
    """The lines that `ollama run --verbose` prints."""
    end = time.perf_counter()
    usage = pieces.completion.usage if pieces.completion else None
    prompt_n, answer_n = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    prompt_s = (first or end) - begin
    answer_s = end - (first or end)
    rate = max(answer_n - 1, 0) / answer_s if answer_s else 0.0
    return "\n".join(
        (
            f"\ntotal duration:       {end - begin + load_s:.3f}s",
            f"load duration:        {load_s:.3f}s",
            f"prompt eval count:    {prompt_n} token(s)",
            f"prompt eval duration: {prompt_s:.3f}s",
            f"eval count:           {answer_n} token(s)",
            f"eval rate:            {rate:.2f} tokens/s",
        )
    )


def _session_file(target: str) -> Path:
    path = Path(target).expanduser()
    return path if path.suffix == ".json" else path.with_name(path.name + ".json")


def _terminal() -> Callable[[str], str]:
    """Line editing and history across sessions; Alt-Enter puts a new line into a message."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings

    folder = Path.home() / ".cache" / "codellama"
    folder.mkdir(parents=True, exist_ok=True)
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(folder / "history")), key_bindings=keys
    )
    return session.prompt
