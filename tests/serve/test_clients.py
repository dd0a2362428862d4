"""LangChain, `llm`, notebooks and npm's ollama against a live server: the clients themselves."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import venv
import warnings
from pathlib import Path

import pytest

from serve.conftest import Live

pytestmark = pytest.mark.weights

QUICK_START = """
from langchain.callbacks.manager import CallbackManager
from langchain.callbacks.streaming_stdout import StreamingStdOutCallbackHandler
from langchain.llms import Ollama

llm = Ollama(
    model="codellama",
    callback_manager=CallbackManager([StreamingStdOutCallbackHandler()]),
)
llm.invoke("def f(x):")
"""


# The client leaves its connection to the garbage collector, which is to find it here.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_langchain_ollama(live: Live) -> None:
    _ask_by_langchain(live)
    gc.collect()


def _ask_by_langchain(live: Live) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        langchain_ollama = pytest.importorskip("langchain_ollama")
    from pydantic import BaseModel

    class Capital(BaseModel):
        city: str

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    settings = {"model": "codellama", "base_url": live.url, "temperature": 0, "num_predict": 24}
    chat = langchain_ollama.ChatOllama(**settings, validate_model_on_init=True)
    whole = chat.invoke("Say hello.")
    assert whole.content and whole.usage_metadata["output_tokens"] > 0
    assert "".join(str(chunk.content) for chunk in chat.stream("Say hello.")) == whole.content
    answer = chat.with_structured_output(Capital, method="json_schema").invoke(
        "The capital of France as JSON."
    )
    assert isinstance(answer, Capital)
    reply = chat.bind_tools([add]).invoke("What is 1+2? Use add.")
    assert reply.content or reply.tool_calls
    complete = langchain_ollama.OllamaLLM(**settings, validate_model_on_init=True)
    assert complete.invoke("def f(x):")
    vectors = langchain_ollama.OllamaEmbeddings(model="codellama", base_url=live.url)
    assert len(vectors.embed_query("q")) == 576


def test_the_llm_command(live: Live, tmp_path: Path) -> None:
    pytest.importorskip("llm_ollama")
    env = {**os.environ, "OLLAMA_HOST": live.url, "LLM_USER_PATH": str(tmp_path)}
    command = [
        sys.executable,
        "-m",
        "llm",
        "-m",
        "ollama/codellama",
        "-o",
        "num_predict",
        "8",
        "Say hello.",
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


NOTEBOOK = """
from langchain_ollama import OllamaLLM
llm = OllamaLLM(model="codellama", num_predict=16)
for piece in llm.stream("def f(x):"):
    print(piece, end="")
"""


@pytest.mark.slow
def test_a_streaming_chain_inside_a_notebook(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", live.url)
    assert _executed(NOTEBOOK, tmp_path).strip()


def _executed(source: str, folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nbformat
        from nbclient import NotebookClient

        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        NotebookClient(book, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return "".join(o.get("text", "") for cell in book.cells for o in cell.outputs)


@pytest.fixture(scope="session")
def old_langchain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LangChain 0.3 with its community package, in an environment of its own."""
    folder = tmp_path_factory.mktemp("langchain")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    packages = ["langchain==0.3.30", "langchain-community==0.3.31", "nbclient", "ipykernel"]
    done = subprocess.run([python, "-m", "pip", "install", "-q", *packages], capture_output=True)
    if done.returncode:
        pytest.skip("LangChain 0.3 cannot be installed here")
    return python


@pytest.mark.slow
def test_the_quick_start_verbatim(store: Path, old_langchain: Path, tmp_path: Path) -> None:
    """`from langchain.llms import Ollama`, as a program and inside a notebook. The snippet names no
    URL, so it runs with a server in a network of its own, where port 11434 is free.
    """
    isolated = ["bwrap", "--dev-bind", "/", "/", "--unshare-net"]
    if not shutil.which("bwrap") or subprocess.run([*isolated, "true"]).returncode:
        pytest.skip("bubblewrap makes no network here")
    program = tmp_path / "quick.py"
    program.write_text(QUICK_START)
    notebook = tmp_path / "notebook.py"
    notebook.write_text(
        "import nbformat\nfrom nbclient import NotebookClient\n"
        f"cell = nbformat.v4.new_code_cell({QUICK_START!r})\n"
        "book = nbformat.v4.new_notebook(cells=[cell])\n"
        "NotebookClient(book, timeout=300, kernel_name='python3').execute()\n"
        "print(''.join(o.get('text', '') for c in book.cells for o in c.outputs))\n"
    )
    script = (
        f"{sys.executable} -m codellama serve --model smollm2:135m --context 256 --no-cache "
        "> log & server=$!; while ! grep -q 'serves at' log; do sleep 0.1; done; "
        f"for part in {program} {notebook}; do {old_langchain} -W ignore $part > $part.out "
        "|| exit 1; done; kill -INT $server; wait $server"
    )
    path = f"{old_langchain.parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "CODELLAMA_MODELS": str(store)}
    env.pop("OLLAMA_HOST", None)
    done = subprocess.run(
        [*isolated, "bash", "-c", script],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for part in (program, notebook):
        assert Path(f"{part}.out").read_text().strip()


JAVASCRIPT = """
const { Ollama } = require('ollama');
(async () => {
  const ollama = new Ollama({ host: process.argv[2] });
  const options = { num_predict: 8, temperature: 0 };
  let text = '';
  const model = 'codellama', prompt = 'def f', messages = [{ role: 'user', content: 'hi' }];
  for await (const part of await ollama.generate({ model, prompt, stream: true, options }))
    text += part.response;
  const whole = await ollama.generate({ model, prompt, stream: false, options });
  const chat = await ollama.chat({ model, messages, options });
  const tags = await ollama.list(); const ps = await ollama.ps();
  const shown = await ollama.show({ model: 'codellama' });
  const embedded = await ollama.embed({ model: 'codellama', input: 'x' });
  await ollama.copy({ source: 'smollm2:135m', destination: 'fromjs' });
  await ollama.delete({ model: 'fromjs' });
  console.log(JSON.stringify({ same: whole.response === text, chat: chat.message.content.length > 0,
    tags: tags.models.length, ps: ps.models.length, info: !!shown.model_info,
    width: embedded.embeddings[0].length }));
})().catch((error) => { console.error(error); process.exit(1); });
"""


@pytest.mark.slow
def test_ollama_for_javascript(live: Live, tmp_path: Path) -> None:
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not installed")
    done = subprocess.run(
        ["npm", "install", "--ignore-scripts", "--silent", "ollama@0.6"],
        cwd=tmp_path,
        capture_output=True,
    )
    if done.returncode:
        pytest.skip("npm cannot install ollama here")
    (tmp_path / "client.cjs").write_text(JAVASCRIPT)
    done = subprocess.run(
        ["node", "client.cjs", live.url], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["same"] and answer["chat"] and answer["info"] and answer["width"] == 576
