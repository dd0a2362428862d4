"""CodeLlama over a fake runner and a byte tokenizer: what goes in and what comes out as text."""

from __future__ import annotations

import sys
import threading
from types import ModuleType

import numpy as np
import pytest

from codellama import CodeLlama, SamplingParams, errors
from codellama.api import loading
from codellama.api.loading import pick_device, serving_context
from codellama.engine.runner import Logits
from codellama.model.config import PUBLISHED
from fakes import ByteTokenizer, FakeRunner, LogitsOf, circling, random_logits, scripted

CONFIG = PUBLISHED["smollm2:135m"]
WORDS = (" en", " enumerate", "umerate", "\n    ")
SIZE = ByteTokenizer.FIRST_WORD + len(WORDS)


def llm_of(
    logits: LogitsOf | None = None, *, infills: bool = True, context: int = 200
) -> CodeLlama:
    runner = FakeRunner(
        vocab_size=SIZE, context=context, n_blocks=16, logits=logits or random_logits(SIZE)
    )
    return CodeLlama(runner, ByteTokenizer(WORDS, infills=infills), CONFIG)


def saying(text: str, prompt_tokens: int) -> LogitsOf:
    """The model that answers `text` and ends."""
    return scripted(SIZE, [*ByteTokenizer(WORDS).encode(text), 257], prompt_tokens)


def prompts_of(llm: CodeLlama) -> list[int]:
    """The ids of the first prompt computed."""
    assert isinstance(llm.runner, FakeRunner)
    batch = llm.runner.batches[0]
    ids: list[int] = batch.tokens_T[: batch.starts_S1[1]].tolist()
    return ids


def test_complete() -> None:
    llm = llm_of(saying("return 1", 4))
    out = llm.complete("abc", temperature=0.0)
    assert (out.text, out.finish_reason) == ("return 1", "stop")
    assert out.tokens == list(b"return 1")
    assert (out.usage.prompt_tokens, out.usage.completion_tokens, out.usage.cached_tokens) == (
        4,
        8,
        0,
    )
    assert out.logprobs is None
    assert prompts_of(llm) == [256, *b"abc"]


def test_token_ids_are_taken_as_they_are() -> None:
    text = llm_of().complete([256, 97]).text
    assert text == llm_of().complete("a").text == llm_of().complete(np.array([256, 97])).text
    assert llm_of().complete((256, 97), max_tokens=3).finish_reason == "length"


@pytest.mark.parametrize("prompt", [None, 5, [1.5], ["a"], {"a": 1}])
def test_what_is_neither_text_nor_ids_is_refused(prompt: object) -> None:
    with pytest.raises(errors.RequestError, match="a text or a list of token ids"):
        llm_of().complete(prompt)  # type: ignore[arg-type]


def test_an_empty_text_starts_from_bos() -> None:
    llm = llm_of()
    llm.complete("", max_tokens=1)
    assert prompts_of(llm) == [256]
    with pytest.raises(errors.RequestError, match="empty"):
        llm.complete([])


def test_a_stop_text_ends_the_answer_and_its_request() -> None:
    llm = llm_of(saying("a = 1\ndef f():", 4))
    out = llm.complete("abc", stop=["\ndef", "\nclass"])
    assert (out.text, out.finish_reason) == ("a = 1", "stop")
    assert bytes(out.tokens) == b"a = 1\ndef"
    assert out.usage.completion_tokens == len(out.tokens)
    assert llm.engine.idle


def test_the_answer_to_a_stop_text_is_the_same_with_speculation() -> None:
    prompt = "x = f(1)\nx = f(1)\n"
    plain = llm_of(saying("x = f(1)\nx = f(2)\n", 19)).complete(prompt, stop="f(2", logprobs=0)
    fast = llm_of(saying("x = f(1)\nx = f(2)\n", 19)).complete(
        prompt, stop="f(2", logprobs=0, speculate=True
    )
    assert fast == plain
    assert fast.text == "x = f(1)\nx = "


def test_max_lines() -> None:
    out = llm_of(saying("a\nb\nc\n", 4)).complete("abc", max_lines=2)
    assert (out.text, out.finish_reason) == ("a\nb", "stop")


def test_logprobs_are_one_per_token() -> None:
    llm = llm_of(saying("a\nb", 4))
    out = llm.complete("abc", logprobs=2, stop="\n")
    assert out.logprobs is not None
    assert [entry.token for entry in out.logprobs] == out.tokens == list(b"a\n")
    assert len(out.logprobs[0].top) == 2


def test_errors_name_what_is_wrong() -> None:
    llm = llm_of(context=100)
    with pytest.raises(errors.RequestError, match="unknown parameter 'max_token'"):
        llm.complete("a", max_token=3)
    with pytest.raises(errors.RequestError, match="temperature"):
        llm.stream("a", temperature=-1)
    with pytest.raises(errors.ContextOverflowError, match=r"101 tokens.*100"):
        llm.stream("a" * 100)
    assert isinstance(llm.runner, FakeRunner) and llm.runner.steps == 0


def test_a_stream_is_the_completion_in_pieces() -> None:
    text = "größer = '→'\n"
    llm = llm_of(saying(text, 4))
    stream = llm.stream("abc")
    pieces = list(stream)
    assert "".join(pieces) == text and len(pieces) > 5
    assert "\ufffd" not in "".join(pieces)
    assert stream.completion is not None
    assert stream.completion.text == text
    assert stream.completion.finish_reason == "stop"


def test_a_stream_never_shows_part_of_a_stop_text() -> None:
    shown = ""
    for piece in llm_of(saying("a\nde\ndef b", 4)).stream("abc", stop="\ndef"):
        shown += piece
        assert "a\nde".startswith(shown)
    assert shown == "a\nde"


def test_a_stream_closed_early_cancels_its_request() -> None:
    llm = llm_of()
    with llm.stream("abc") as stream:
        next(stream)
        assert not llm.engine.idle
    assert llm.engine.idle
    assert stream.completion is None
    with pytest.raises(StopIteration):
        next(stream)


def test_two_streams_and_a_completion_at_the_same_time() -> None:
    llm = llm_of()
    want = [llm.complete(text, max_tokens=20).text for text in ("a", "b", "c")]
    first, second = llm.stream("a", max_tokens=20), llm.stream("b", max_tokens=20)
    head = next(first)
    middle = llm.complete("c", max_tokens=20).text
    assert ["".join([head, *first]), "".join(second), middle] == want


def test_threads() -> None:
    llm = llm_of()
    want = [llm.complete([i], max_tokens=20).tokens for i in range(8)]
    got: dict[int, list[int]] = {}

    def work(i: int) -> None:
        got[i] = llm.complete([i], max_tokens=20).tokens

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [got[i] for i in range(8)] == want


def test_samples_and_many_prompts() -> None:
    llm = llm_of()
    one = llm.complete("abc", temperature=1.0, seed=3, max_tokens=9)
    several = llm.samples("abc", 4, temperature=1.0, seed=3, max_tokens=9)
    assert several[0].tokens == one.tokens
    assert len({tuple(out.tokens) for out in several}) == 4
    many = llm.complete_many(["abc", [256, 5]], temperature=1.0, seed=3, max_tokens=9)
    assert many[0].tokens == one.tokens
    assert many[1].tokens != one.tokens


CIRCLE = circling(SIZE, "ab", 257)


class TestRepeats:
    def test_an_answer_that_goes_in_circles_ends(self) -> None:
        """`ab` may come once and again: then its repeat is two long, and costs 0.8 · 1.75^0 …"""
        free = llm_of(CIRCLE).complete("b", max_tokens=20)
        kept = llm_of(CIRCLE).complete("b", max_tokens=20, dry_multiplier=0.8)
        assert (free.text, free.finish_reason) == ("ab" * 10, "length")
        assert (kept.text, kept.finish_reason) == ("abab" + "a", "stop")

    def test_what_is_in_the_prompt_is_no_repeat_unless_asked(self) -> None:
        prompt = "abababab"
        for window, answer in ((None, "ababa"), (-1, "")):
            params = {"dry_multiplier": 0.8, "dry_penalty_last_n": window}
            out = llm_of(CIRCLE).complete(prompt, max_tokens=20, **params)
            assert (out.text, out.finish_reason) == (answer, "stop")

    def test_breakers(self) -> None:
        """With ` enumerate` among the tokens, `e` is in four of them."""
        prompter = llm_of().prompts
        params = SamplingParams(dry_multiplier=1.0, dry_sequence_breakers=("e", "\n"))
        found = prompter.resolved(params).dry_breakers
        first = ByteTokenizer.FIRST_WORD
        assert found == {ord("e"), first, first + 1, first + 2, ord("\n"), first + 3}
        assert prompter.resolved(params) == prompter.resolved(params)
        off = SamplingParams(dry_sequence_breakers=("e",))
        assert prompter.resolved(off) is off
        for breaker, text in (("b", "ab" * 10), ("z", "ababa")):
            given = {"dry_multiplier": 0.8, "dry_sequence_breakers": breaker}
            assert llm_of(CIRCLE).complete("b", max_tokens=20, **given).text == text

    def test_too_many_breakers(self) -> None:
        with pytest.raises(errors.RequestError, match="17 texts: at most 16"):
            llm_of().complete("a", dry_multiplier=1.0, dry_sequence_breakers=["x"] * 17)


class TestInfilling:
    def test_orders(self) -> None:
        psm = [256, 260, *b"ab:", 261, *b"cd", 262]
        spm = [256, 260, 261, *b"cd", 262, *b"ab:"]
        for order, ids in (("psm", psm), ("spm", spm), ("auto", spm)):
            llm = llm_of()
            llm.infill("ab:", "cd", order=order, max_tokens=1)  # type: ignore[arg-type]
            assert prompts_of(llm) == ids

    def test_only_the_middle_is_returned(self) -> None:
        llm = llm_of(scripted(SIZE, [*b" + 1", 263], 9))
        out = llm.infill("ab:", "cd")
        assert (out.text, out.finish_reason) == (" + 1", "stop")

    def test_it_ends_where_it_begins_to_repeat_the_suffix(self) -> None:
        prefix, suffix, said = "ab:", "return x + 1\n", "\ny\nreturn x + 1\nz"
        for until, middle in ((True, "\ny\n"), (False, said)):
            llm = llm_of(scripted(SIZE, [*said.encode(), 263], 4 + len(prefix + suffix)))
            given = {"order": "psm", "until_suffix": until, "temperature": 0.0}
            assert llm.infill(prefix, suffix, **given).text == middle
            assert "".join(llm.stream_infill(prefix, suffix, **given)) == middle

    def test_it_may_not_be_empty_where_something_is_missing(self) -> None:
        """The model says nothing, then `x`: with `nonempty` the end has to wait."""
        for order, heal in (("psm", True), ("spm", True), ("spm", False)):
            empty, filled = (
                llm_of(scripted(SIZE, [263, 263], len("ab:cd") + 4)).infill(
                    "ab:",
                    "cd",
                    order=order,
                    heal=heal,
                    nonempty=nonempty,  # type: ignore[arg-type]
                )
                for nonempty in (False, True)
            )
            assert empty.text == "" and filled.text != ""
            assert filled.finish_reason == "stop"

    def test_inside_a_word_without_healing_the_prefix_comes_first(self) -> None:
        llm = llm_of()
        llm.infill("for i in enu", "x", heal=False, max_tokens=1)
        assert prompts_of(llm)[-1] == 262

    def test_a_word_cut_short_is_healed(self) -> None:
        """A model that knows ` enumerate` as a token says it; only what is new is the answer."""
        word = ByteTokenizer.FIRST_WORD + WORDS.index(" enumerate")
        prefix = [256, 260, 261, *b"):", 262, *b"for i in"]
        llm = llm_of(scripted(SIZE, [word, ord("("), 263], len(prefix)))
        out = llm.infill("for i in enu", "):")
        assert prompts_of(llm) == prefix
        assert out.text == "merate("
        assert out.tokens == [word, ord("(")]

    def test_healing_forbids_everything_else(self) -> None:
        llm = llm_of(saying("never this", 18))
        out = llm.infill("for i in enu", "):", temperature=1.5, seed=1, max_tokens=12)
        spelled = llm.tokenizer.decode(out.tokens)
        assert spelled.startswith(" enu")
        assert out.text == spelled.removeprefix(" enu")

    def test_what_the_answer_repeats_does_not_stop_it(self) -> None:
        indent = ByteTokenizer.FIRST_WORD + WORDS.index("\n    ")
        ids = [256, *b"f():"]
        llm = llm_of(scripted(SIZE, [indent, *b"pass\nx"], len(ids)))
        out = llm.complete("f():\n", heal=True, stop="\n")
        assert out.text == "    pass"

    def test_a_textual_prompt_is_recognized(self) -> None:
        llm = llm_of()
        llm.complete("<PRE> ab: <SUF>cd <MID>", max_tokens=1)
        assert prompts_of(llm) == [256, 260, *b"ab:", 261, *b"cd", 262]
        plain = llm_of(infills=False)
        plain.complete("<PRE> ab: <SUF>cd <MID>", max_tokens=1)
        assert prompts_of(plain) == [256, *b"<PRE> ab: <SUF>cd <MID>"]

    def test_a_model_that_cannot_says_so(self) -> None:
        with pytest.raises(errors.InfillingUnsupportedError, match=r"smollm2:135m cannot infill"):
            llm_of(infills=False).infill("a", "b")

    def test_other_orders_are_refused(self) -> None:
        with pytest.raises(errors.RequestError, match="'psm' or 'spm'"):
            llm_of().infill("a", "b", order="msp")  # type: ignore[arg-type]

    def test_it_streams(self) -> None:
        llm = llm_of(scripted(SIZE, [*b" + 1", 263], 9))
        assert "".join(llm.stream_infill("ab:", "cd")) == " + 1"


def test_chat() -> None:
    ids = [258, *b"user\nhi", 259, *b"\n", 258, *b"assistant\n"]
    llm = llm_of(scripted(SIZE, [*b"hello", 259], len(ids)))
    messages = [{"role": "user", "content": "hi"}]
    assert llm.chat(messages).text == "hello"
    assert prompts_of(llm) == ids
    assert "".join(llm.stream_chat(messages)) == "hello"


def test_a_sentencepiece_answer_has_no_space_in_front() -> None:
    tokenizer = ByteTokenizer(WORDS)
    tokenizer.kind = "llama"
    n_prompt = 1 + len("[INST] hi [/INST]")
    runner = FakeRunner(vocab_size=SIZE, logits=saying("  hello you", n_prompt))
    llm = CodeLlama(runner, tokenizer, CONFIG)
    assert llm.chat([{"role": "user", "content": "hi"}]).text == "hello you"


def test_logits_and_embeddings() -> None:
    llm = llm_of()
    assert isinstance(llm.runner, FakeRunner)
    logits_TV = llm.logits([256, 97, 98])
    assert logits_TV.shape == (3, SIZE) and logits_TV.dtype == np.float32
    assert np.array_equal(logits_TV[1], llm.runner.alone([256, 97]))
    embedding_D = llm.embed("ab")
    assert np.linalg.norm(embedding_D) == pytest.approx(1.0, abs=1e-6)
    mean_D = np.mean([llm.runner.alone([256, *b"ab"][:n])[:8] for n in (1, 2, 3)], axis=0)
    assert embedding_D == pytest.approx(mean_D / np.linalg.norm(mean_D), abs=1e-6)


def test_tokens_beyond_the_tokenizer_have_no_text() -> None:
    """Embeddings padded to a round number: such rows are not trained, but nothing forbids them."""

    def logits(history: list[int]) -> Logits:
        return np.eye(SIZE + 8, dtype=np.float32)[SIZE + 3 if len(history) < 5 else 257]

    runner = FakeRunner(vocab_size=SIZE + 8, logits=logits)
    out = CodeLlama(runner, ByteTokenizer(WORDS), CONFIG).complete("ab")
    assert (out.text, out.tokens) == ("", [SIZE + 3] * 2)


def test_how_long_a_context_is_served() -> None:
    smol, code, long = CONFIG, PUBLISHED["codellama:7b-code"], PUBLISHED["llama2:7b"]
    assert serving_context(smol, None) == 8192
    assert serving_context(code, None) == 16_384
    assert serving_context(code, 100_000) == 100_000
    assert serving_context(long, 17) == 17
    for config, wanted in ((smol, 8193), (code, 100_001), (long, 0), (long, "9")):
        with pytest.raises(errors.RequestError, match="context"):
            serving_context(config, wanted)  # type: ignore[arg-type]


def test_devices() -> None:
    assert pick_device("cpu") == "cpu"
    assert pick_device("cuda:1") == "cuda:1"
    with pytest.raises(errors.RequestError, match="device is 'tpu'"):
        pick_device("tpu")


@pytest.mark.parametrize("torch", [None, ModuleType("torch")])
def test_a_device_that_cannot_be_used_says_why(
    torch: ModuleType | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without PyTorch, and with one that has no such device."""
    if torch is not None:
        torch.empty = _no_device  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "codellama.engine.torch_runner", _TorchRunner("fake"))
    monkeypatch.setitem(sys.modules, "torch", torch)
    reason = "pip install" if torch is None else "is not here: no CUDA"
    with pytest.raises(errors.RequestError, match=f"'cuda' .*{reason}"):
        loading._torch_runner(None, 16, "cuda", "f16")  # type: ignore[arg-type]


def _no_device(*_: object, **__: object) -> None:
    raise RuntimeError("no CUDA\nand a long story")


class _TorchRunner(ModuleType):
    TorchRunner = load_llama = None


def test_a_model_that_is_not_here() -> None:
    with pytest.raises(errors.NotFoundError):
        CodeLlama.load("no/such/file.gguf")


def test_sampling_params_are_the_keywords() -> None:
    """Each field of SamplingParams is a keyword of complete."""
    keywords = {name: getattr(SamplingParams(), name) for name in SamplingParams.__slots__}
    assert llm_of().complete("a", **keywords).tokens == llm_of().complete("a").tokens
