"""Tokenizers against published vectors, other libraries, and text that tries to forge tokens."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codellama.errors import ModelFileError, RequestError
from codellama.model import prompts
from codellama.model.short_bpe import ShortTexts
from codellama.model.tokenizer import Tokenizer, tokenizer_from_gguf, tokenizer_to_gguf
from codellama.model.tokenizer_bpe import ByteLevelTokenizer
from codellama.weights.gguf import read_gguf

SEPARATOR = "\n__ggml_vocab_test__\n"
VOCABULARIES = ("llama-spm", "gpt-2", "starcoder")


def vocabulary(shared_data: Path, name: str) -> Tokenizer:
    folder = shared_data / "llama_tokenizer_vectors"
    return tokenizer_from_gguf(read_gguf(folder / f"ggml-vocab-{name}.gguf").metadata)


@cache
def cached_vocabulary(shared_data: Path, name: str) -> ByteLevelTokenizer:
    tokenizer = vocabulary(shared_data, name)
    assert isinstance(tokenizer, ByteLevelTokenizer)
    return tokenizer


def smollm2_lacks(tokenizer: Tokenizer, letter: str) -> bool:
    return all(tokenizer.piece(id) != letter.encode() for id in range(tokenizer.vocab_size))


@pytest.fixture(scope="module")
def code_llama(shared_data: Path) -> Tokenizer:
    """The 32,016 pieces: Llama's 32,000 and the 16 that end in the sentinels."""
    folder = shared_data / "llama_tokenizer_vectors"
    metadata = dict(read_gguf(folder / "ggml-vocab-llama-spm.gguf").metadata)
    added = json.loads((folder / "codellama_added_pieces.json").read_text())
    pieces = (
        sorted(added.items(), key=lambda item: int(item[1])) if isinstance(added, dict) else added
    )
    names = [p[0] if isinstance(p, list | tuple) else p for p in pieces]
    assert len(names) == 16
    for key, values in (
        ("tokens", names),
        ("scores", [-31741.0 - i for i in range(16)]),
        ("token_type", [1] * 16),
    ):
        metadata[f"tokenizer.ggml.{key}"] = [*metadata[f"tokenizer.ggml.{key}"], *values]
    return tokenizer_from_gguf(metadata)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_published_vectors(shared_data: Path, name: str) -> None:
    folder = shared_data / "llama_tokenizer_vectors"
    tokenizer = vocabulary(shared_data, name)
    base = folder / f"ggml-vocab-{name}.gguf"
    texts = base.with_suffix(".gguf.inp").read_bytes().decode().split(SEPARATOR)
    lines = base.with_suffix(".gguf.out").read_text().split("\n")
    assert len(texts) == len(lines) == 47
    for text, line in zip(texts, lines, strict=True):
        ids = tokenizer.encode(text)
        assert ids == [int(i) for i in line.split()], repr(text)
        dummy_prefix = " " if name == "llama-spm" and text else ""
        assert tokenizer.decode(ids) == dummy_prefix + text


def test_the_published_infilling_example(shared_data: Path, code_llama: Tokenizer) -> None:
    vector = json.loads(
        (shared_data / "llama_tokenizer_vectors" / "codellama_infilling_vector.json").read_text()
    )
    ids = prompts.infilling(code_llama, vector["prefix"], vector["suffix"], order="psm")
    expected = next(v for v in vector.values() if isinstance(v, list))
    assert ids == expected


def test_sentinels(code_llama: Tokenizer) -> None:
    assert code_llama.vocab_size == 32_016
    ids = code_llama.infill
    assert ids is not None
    assert (ids.pre, ids.suf, ids.mid, ids.eot) == (32007, 32008, 32009, 32010)
    assert code_llama.stop_ids == {2, 32010}


PIECES = [
    "<PRE>", "▁<PRE>", " <SUF>", "<MID", ">", " <EOT>", "<E", "OT>", "▁", "<s>", "</s>", "<unk>",
    "<0x0A>", "[INST]", "<<SYS>>", "<step>", "<|im_start|>", "<|im_end|>", "<|endoftext|>",
    "<fim_prefix>", "<fim_middle>", "<|", "im_end", "|>", "☺", "\x00", "\r\n", " ", "a", "é", "😀",
]  # fmt: skip
forgeries = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12).map("".join)


@settings(max_examples=300, deadline=None)
@given(text=forgeries)
@example(text=" <PRE> x <SUF> y <MID> z <EOT>")
@example(text="▁<PRE>▁<SUF>▁<MID>▁<EOT>")
def test_code_llama_text_never_becomes_a_sentinel(
    code_llama: Tokenizer, llama: Tokenizer, text: str
) -> None:
    """And is encoded exactly as by the 32,000 pieces without them."""
    ids = code_llama.encode(text)
    assert all(3 <= i < 32_000 for i in ids)
    assert ids == llama.encode(text)
    spaced = text.replace("▁", " ")
    assert code_llama.decode(ids) == (" " + spaced if text else "")
    assert code_llama.decode(code_llama.encode_infilling(text)) == spaced


@pytest.fixture(scope="module")
def llama(shared_data: Path) -> Tokenizer:
    return vocabulary(shared_data, "llama-spm")


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Tokenizer:
    return tokenizer_from_gguf(read_gguf(smollm2_path).metadata)


@pytest.fixture(scope="module")
def smollm2_bytes(smollm2: Tokenizer) -> set[bytes]:
    return {smollm2.piece(i) for i in range(smollm2.vocab_size)}


@pytest.mark.weights
@settings(max_examples=300, deadline=None)
@given(text=forgeries)
@example(text="\U00040000")
def test_chat_tags_in_text_stay_text(
    smollm2: Tokenizer, smollm2_bytes: set[bytes], text: str
) -> None:
    """And come back whole, but for the 21 byte values that SmolLM2 has no piece for."""
    ids = smollm2.encode(text)
    assert all(i >= 17 for i in ids)  # 0 to 16 are control tokens
    representable = bytes(b for b in text.encode() if bytes([b]) in smollm2_bytes)
    assert smollm2.decode(ids) == representable.decode("utf-8", "replace")


@pytest.mark.weights
def test_smollm2_agrees_with_a_library_built_otherwise(
    smollm2: Tokenizer, smollm2_path: Path
) -> None:
    """The same vocabulary through transformers' own GPT-2 tokenizer, digits split beforehand."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers

    metadata = read_gguf(smollm2_path).metadata
    merges = [tuple(m.split(" ")) for m in metadata["tokenizer.ggml.merges"]]
    names = {p: i for i, p in enumerate(metadata["tokenizer.ggml.tokens"])}
    library = Library(models.BPE(names, merges))
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    library.decoder = decoders.ByteLevel()
    for text in ("def f(x):\n    return x + 12345\n", "naïve 😀\tcafé", "  two  spaces", "\n\n\n"):
        assert smollm2.encode(text) == library.encode(text).ids
        assert smollm2.decode(smollm2.encode(text)) == text


ascii_texts = st.lists(
    st.sampled_from(
        ["'s", "'ll", " ", "  ", "\n", "\t", "\r\n", "def ", "12", "naive", "\x1c", "_"]
    )
    | st.text(st.characters(max_codepoint=127), max_size=6),
    max_size=12,
).map("".join)


@pytest.mark.parametrize("name", ["gpt-2", "starcoder"])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_short_texts_have_the_ids_of_the_library(
    shared_data: Path, name: str, data: st.DataObject
) -> None:
    tokenizer = cached_vocabulary(shared_data, name)
    text = data.draw(ascii_texts)
    short = ShortTexts(tokenizer.pieces, tokenizer.merges, digits=name != "gpt-2").encode(text)
    assert short == tokenizer._library.encode(text, add_special_tokens=False).ids


@pytest.mark.weights
@settings(max_examples=300, deadline=None)
@given(text=ascii_texts)
@example(text="def fibonacci(n):\n    if n < 12345:\n        return n\n")
def test_short_texts_of_smollm2(smollm2: ByteLevelTokenizer, text: str) -> None:
    short = smollm2._short.encode(text)
    if short is None:  # a byte that no piece has
        assert any(smollm2_lacks(smollm2, byte) for byte in text)
    else:
        assert short == smollm2._library.encode(text, add_special_tokens=False).ids


def test_what_is_not_short_is_left_to_the_library(shared_data: Path) -> None:
    tokenizer = vocabulary(shared_data, "gpt-2")
    short = ShortTexts(["a", "Ġ", "ab", "b"], ["a b"], digits=False)
    assert short.encode("ab a") == [2, 1, 0]
    assert short.encode("é") is None
    assert short.encode("c") is None
    assert short.encode("a" * 65) is None
    tokenizer.encode("a short text")
    assert "_library" not in tokenizer.__dict__
    long = "a long text\n" * 1000
    assert tokenizer.decode(tokenizer.encode(long)) == long
    assert "_library" in tokenizer.__dict__


def test_a_merge_without_a_piece_is_damage() -> None:
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "b"],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.pre": "gpt-2",
    }
    tokenizer = tokenizer_from_gguf(metadata)
    for text in ("ab", "é"):  # by the lists, and by the library
        with pytest.raises(ModelFileError, match="damaged"):
            tokenizer.encode(text)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_stand_ins_are_the_bytes_of_pieces(shared_data: Path, name: str) -> None:
    tokenizer = vocabulary(shared_data, name)
    texts, write = tokenizer.stand_ins()
    assert texts == [write(tokenizer.piece(id)) for id in range(tokenizer.vocab_size)]
    assert len(set(write(bytes(range(256))))) == 256


def test_stand_ins_of_a_piece_with_other_characters() -> None:
    tokenizer = ByteLevelTokenizer(
        ["a", "Ġ", "<a b>", "<c>"], [], [1, 1, 4, 3], pre="gpt-2", bos_id=None, eos_id=None
    )
    texts, write = tokenizer.stand_ins()
    assert texts == [write(tokenizer.piece(id)) for id in range(4)]


@pytest.mark.parametrize("name", VOCABULARIES)
def test_gguf_metadata_go_there_and_back(shared_data: Path, name: str) -> None:
    tokenizer = vocabulary(shared_data, name)
    again = tokenizer_from_gguf(tokenizer_to_gguf(tokenizer))
    text = "for i in range(10):\n\tprint('ünï', i)  # 😀\r\n"
    assert again.encode(text) == tokenizer.encode(text)
    assert (again.bos_id, again.eos_id, again.infill, again.add_bos) == (
        tokenizer.bos_id, tokenizer.eos_id, tokenizer.infill, tokenizer.add_bos,
    )  # fmt: skip


def test_surrogates_are_refused(llama: Tokenizer) -> None:
    with pytest.raises(RequestError, match="surrogates"):
        llama.encode("a\ud800b")


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({}, "no vocabulary"),
        ({"tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": ["a"]}, "known: llama, gpt2"),
        (
            {
                "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a"],
                "tokenizer.ggml.pre": "qwen9",
            },
            "qwen9.*known",
        ),
    ],
)  # fmt: skip
def test_unknown_vocabularies_are_refused(metadata: dict[str, object], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        tokenizer_from_gguf(metadata)
