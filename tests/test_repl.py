"""The conversation in a terminal, with scripted lines in the place of a keyboard."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from codellama import CodeLlama, RequestError
from codellama.engine.runner import Logits
from codellama.model.config import PUBLISHED
from codellama.repl import Repl
from fakes import ByteTokenizer, FakeRunner

SIZE = ByteTokenizer.FIRST_WORD
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "<|im_start|>assistant\n"
)


def parrot(history: list[int]) -> Logits:
    """Answers "ok." after any prompt, then ends."""
    import numpy as np

    row_V = np.zeros(SIZE, np.float32)
    tail = bytes(i for i in history[-3:] if i < 256)
    answer = next((n for n in (3, 2, 1) if tail.endswith(b"ok."[:n])), 0)
    row_V[[*b"ok.", 257][answer]] = 10.0
    return row_V


def chat_model(template: str | None = TEMPLATE, context: int = 2000) -> CodeLlama:
    runner = FakeRunner(vocab_size=SIZE, context=context, n_blocks=200, logits=parrot)
    config = PUBLISHED["smollm2:135m"]
    return CodeLlama(runner, ByteTokenizer(), config, chat_template=template)


Session = Callable[..., tuple[Repl, str]]


def talk(
    *lines: str | type[BaseException],
    llm: CodeLlama | None = None,
    load: Callable[[str], CodeLlama] | None = None,
    **more: Any,
) -> tuple[Repl, str]:
    """Type the lines, then Ctrl-D; the repl and all that it wrote. An exception is raised where a
    line was to be read.
    """
    typed: Iterator[str | type[BaseException]] = iter(lines)

    def read(prompt: str) -> str:
        line = next(typed, EOFError)
        if isinstance(line, str):
            return line
        raise line

    def nothing(name: str) -> CodeLlama:
        raise AssertionError(name)

    out = io.StringIO()
    params = {"temperature": 0.0, "max_tokens": 50}
    repl = Repl(
        llm or chat_model(), "fake", params, load=load or nothing, read=read, out=out, **more
    )
    repl.loop()
    return repl, out.getvalue()


def asked(repl: Repl) -> str:
    """The last prompt that the model was given, as text."""
    assert isinstance(repl.llm.runner, FakeRunner)
    runner = repl.llm.runner
    prompts = [b.tokens_T for b in runner.batches if len(b.tokens_T) > 1]
    return bytes(i for i in prompts[-1].tolist() if i < 256).decode()


def test_a_conversation_remembers() -> None:
    repl, shown = talk("hi", "and?")
    assert shown.count("ok.\n") == 2
    roles = [message["role"] for message in repl.messages]
    assert roles == ["user", "assistant", "user", "assistant"]
    assert repl.messages[1]["content"] == "ok."


def test_clear_and_nohistory_forget() -> None:
    repl, _ = talk("one", "/clear", "two")
    assert [m["content"] for m in repl.messages] == ["two", "ok."]
    repl, _ = talk("/set nohistory", "one", "two")
    assert repl.messages == []
    repl, _ = talk("/set nohistory", "one", "/set history", "two")
    assert len(repl.messages) == 2


def test_lines_between_triple_quotes_are_one_message() -> None:
    repl, _ = talk('"""', "def f():", "    pass", '"""')
    assert repl.messages[0]["content"] == "def f():\n    pass"
    repl, _ = talk('"""one', 'two"""')
    assert repl.messages[0]["content"] == "one\ntwo"
    repl, _ = talk('"""all on one line"""')
    assert repl.messages[0]["content"] == "all on one line"


@pytest.mark.parametrize(
    "lines, config, penalty",
    [
        ((), "smollm2:135m", 1.05),
        (("/set parameter repetition_penalty 1.2",), "smollm2:135m", 1.2),
        ((), "codellama:7b-instruct", None),
    ],
)
def test_a_small_model_is_kept_from_circles(
    lines: tuple[str, ...], config: str, penalty: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = chat_model()
    model.config = PUBLISHED[config]
    given: list[object] = []
    stream = model.stream_chat
    monkeypatch.setattr(
        model, "stream_chat",
        lambda m, **p: given.append(p.get("repetition_penalty")) or stream(m, **p),
    )  # fmt: skip
    _, shown = talk(*lines, "hi", llm=model)
    assert given == [penalty] and "ok." in shown


def test_the_system_message() -> None:
    repl, shown = talk('/set system "Be brief."', "/show system", "hi")
    assert "Be brief.\n" in shown
    assert asked(repl).startswith("system\nBe brief.user\nhi")
    _, shown = talk("/set system", "/show system")
    assert "(no system message)" in shown


def test_parameters() -> None:
    repl, shown = talk(
        "/set parameter temperature 0.5", "/set parameter top_k 7", '/set parameter stop "a b" c',
        "/show parameters",
    )  # fmt: skip
    assert repl.params == {"temperature": 0.5, "max_tokens": 50, "top_k": 7, "stop": ["a b", "c"]}
    assert "top_k: 7\n" in shown
    repl, shown = talk(
        "/set parameter temperature hot", "/set parameter temperature -1", "/set parameter x 1",
        "/set parameter top_k 1.5", '/set parameter stop "a', "/set parameter", "/set nothing",
    )  # fmt: skip
    assert repl.params == {"temperature": 0.0, "max_tokens": 50}
    for message in (
        "needs a number",
        "stop needs texts",
        "temperature is -1.0",
        "'x'",
        "/set parameter NAME VALUE",
    ):
        assert message in shown


def test_ctrl_c_at_the_prompt_stays_and_ctrl_d_leaves() -> None:
    _, shown = talk(KeyboardInterrupt, "hi")
    assert "(Ctrl-D or /bye leaves)" in shown
    assert "ok." in shown


def test_ctrl_c_stops_the_answer_and_not_the_program() -> None:
    llm = chat_model()
    calls = []

    class Interrupted(FakeRunner):
        def run(self, batch: Any) -> Logits:
            calls.append(batch)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return super().run(batch)

    runner = Interrupted(vocab_size=SIZE, context=2000, n_blocks=200, logits=parrot)
    llm = CodeLlama(runner, ByteTokenizer(), llm.config, chat_template=TEMPLATE)
    repl, shown = talk("hi", "again", llm=llm)
    assert "(stopped)" in shown
    assert shown.rstrip().endswith("ok.")
    assert [m["content"] for m in repl.messages][::2] == ["hi", "again"]


def test_ctrl_c_stops_a_load_and_not_the_program() -> None:
    def interrupted(name: str) -> CodeLlama:
        raise KeyboardInterrupt

    repl, shown = talk("hi", "/load other", "more", load=interrupted)
    assert "(stopped)" in shown
    assert len(repl.messages) == 4


def test_infill() -> None:
    repl, shown = talk(
        "/infill def f(x): <FILL_ME> return x", "/infill", "a<FILL_ME>b", "/infill x"
    )
    assert shown.count("ok.\n") == 2
    assert "one <FILL_ME>" in shown
    assert repl.messages == []


def test_save_and_load(tmp_path: Path) -> None:
    file = tmp_path / "talk"
    repl, shown = talk("hi", "/set parameter seed 3", '/set system "S"', f"/save {file}")
    assert f"saved to {file}.json" in shown
    assert list(tmp_path.iterdir()) == [file.with_suffix(".json")]
    again, _ = talk(f"/load {file}", "more")
    assert again.messages[:2] == repl.messages
    assert (again.params, again.system) == (repl.params, "S")


SESSION = {"model": "fake", "messages": [], "parameters": {}, "system": None}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        *(
            json.dumps({**SESSION, **change})
            for change in (
                {"model": 1},
                {"messages": 5},
                {"messages": [1]},
                {"messages": [{"role": "user"}]},
                {"messages": [{"role": "user", "content": 1}]},
                {"parameters": {"temperature": -1}},
                {"parameters": {"heat": 1}},
                {"parameters": 3},
                {"system": 1},
            )
        ),
    ],
    ids=lambda text: text[:70],
)
def test_what_is_no_session_changes_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    repl, shown = talk("hi", f"/load {tmp_path / 's'}", "more")
    assert any(word in shown for word in ("no saved session", "temperature is -1", "'heat'"))
    assert len(repl.messages) == 4
    assert repl.params == {"temperature": 0.0, "max_tokens": 50}


def test_load_another_model() -> None:
    other = chat_model(None)
    repl, shown = talk("hi", "/load other", "raw text", load=lambda name: other)
    assert repl.llm is other
    assert repl.messages == []  # no chat template: it completes
    assert "other is loaded" in shown

    def fails(name: str) -> CodeLlama:
        raise RequestError(f"no {name}")

    repl, shown = talk("hi", "/load gone", "hi", load=fails)
    assert "no gone" in shown
    assert len(repl.messages) == 4


def test_save_where_nothing_can_be_written(tmp_path: Path) -> None:
    _, shown = talk("hi", f"/save {tmp_path / 'no' / 'such'}", "/save", "/load")
    assert "No such file or directory" in shown
    assert "/save FILE" in shown and "/load NAME or FILE" in shown


def test_verbose_prints_timings() -> None:
    _, shown = talk("/set verbose", "hi", "/set quiet", "hi")
    assert shown.count("eval count:           3 token(s)") == 1


def test_show_help_and_unknown_commands() -> None:
    _, shown = talk("/?", "/show template", "/show nothing", "/frob", "", "  ")
    assert "/set parameter NAME VALUE" in shown
    assert TEMPLATE in shown
    assert "no command /frob" in shown
    assert "/show info, parameters" in shown


@pytest.mark.parametrize("word", ["/bye", "/exit", "/quit"])
def test_leaving(word: str) -> None:
    _, shown = talk(word, "hi")
    assert "ok." not in shown


def test_an_error_of_the_model_goes_on() -> None:
    repl, shown = talk("x" * 500, "hi", llm=chat_model(context=100))
    assert "the prompt has" in shown
    assert "ok." in shown
    assert len(repl.messages) == 2


def test_a_saved_session_is_json(tmp_path: Path) -> None:
    talk("hi", f"/save {tmp_path / 's.json'}")
    session = json.loads((tmp_path / "s.json").read_text())
    assert session["messages"][0] == {"role": "user", "content": "hi"}
