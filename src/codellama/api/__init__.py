"""class CodeLlama: text in, text out. Load a model; complete, infill, chat, stream; score and
embed.

Joins what the layers below keep apart: names (hub), files (weights), text (model) and token ids
(engine). Owns what neither text nor engine knows alone: where a stop text ends an answer, and which
part of a healed answer repeats the prompt. Calls from several threads are batched together by the
engine.

Does not download: `codellama pull` does, and `load` says so where a name is known but not here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from codellama.api.answers import Completion, Prompt, TextIterator, Usage, answer_events
from codellama.api.prompting import Order, Prompter, integers
from codellama.engine.engine import Engine
from codellama.engine.params import SamplingParams
from codellama.model import prompts

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

    from codellama.engine.runner import Logits, Runner
    from codellama.model.config import ModelConfig
    from codellama.model.tokenizer import Tokenizer

__all__ = ["CodeLlama", "Completion", "Order", "TextIterator", "Usage"]

Message = dict[str, Any]


class CodeLlama:
    """A model ready to answer. Use `CodeLlama.load`; the constructor takes the parts, for tests and
    other runners.

    Every method that generates takes the fields of SamplingParams as keyword arguments; an unknown
    one is a RequestError that names it.

    >>> llm = CodeLlama.load("smollm2:135m")                                     # doctest: +SKIP
    >>> llm.complete("def fib(n):", max_tokens=64, stop="\\ndef").text            # doctest: +SKIP
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        config: ModelConfig,
        *,
        chat_template: str | None = None,
        draft: Runner | None = None,
    ) -> None:
        self.runner = runner
        self.tokenizer = tokenizer
        self.config = config
        self.chat_template = chat_template
        self.engine = Engine(runner, stop_ids=tokenizer.stop_ids, draft=draft)
        self.prompts = Prompter(
            tokenizer, name=config.name, vocab_size=runner.vocab_size, chat_template=chat_template
        )

    @classmethod
    def load(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        context: int | None = None,
        threads: int | None = None,
        device: str = "auto",
        isa: str | None = None,
        kv_type: str = "f16",
        draft: str | os.PathLike[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> CodeLlama:
        """A model by name, file or folder.

        Args:
            context: longest prompt and answer together, in tokens; default the model's own, at most
                16,384.
            threads: CPU threads; default one per usable core.
            device: "cpu" is the native engine; "cuda", "cuda:1", "mps" and "cpu-torch" run the
                PyTorch forward; "auto" takes a CUDA device if there is one, else the native engine.
            isa: the native engine's instruction set, by name; default the best.
            kv_type: how the cache keeps keys and values: "f16", or "q8_0", which takes a little
                more than half the memory.
            draft: a small model of the same vocabulary, by name, file or folder, that guesses
                ahead: answers come faster and stay the same.
            progress: called with (tensors loaded, tensors in all).

        Raises:
            NotFoundError: no such name or path.
            ModelFileError: the file is damaged or of an unknown kind.
            ModelTooLargeError: weights and cache do not fit; nothing was loaded.
            RequestError: an argument out of range, a device that is not here, or a draft model of
                another vocabulary.
        """
        from codellama.api.loading import open_parts

        parts = open_parts(
            name_or_path,
            context=context,
            threads=threads,
            device=device,
            isa=isa,
            kv_type=kv_type,
            draft=draft,
            progress=progress,
        )
        return cls(
            parts.runner,
            parts.tokenizer,
            parts.config,
            chat_template=parts.chat_template,
            draft=parts.draft,
        )

    @property
    def context(self) -> int:
        """Longest prompt and answer together, in tokens."""
        return self.engine.context

    def complete(
        self, prompt: str | Sequence[int], *, heal: bool = False, **params: Any
    ) -> Completion:
        """Continue a text, or token ids.

        Args:
            prompt: a text that is an infilling prompt in the textual form (`<PRE> … <SUF>… <MID>`)
                is encoded as one, if the model can infill.
            heal: undo the last token boundary: for prompts that may end inside a token.

        Raises:
            ContextOverflowError: the prompt does not fit.
            RequestError: a parameter out of range or unknown.
        """
        return self._answer([self.prompts.completion(prompt, heal=heal)], params)[0]

    def complete_many(
        self, prompts: Sequence[str | Sequence[int]], *, heal: bool = False, **params: Any
    ) -> list[Completion]:
        """Continue several prompts, batched together. Each text is the same as on its own."""
        return self._answer(
            [self.prompts.completion(prompt, heal=heal) for prompt in prompts], params
        )

    def samples(
        self, prompt: str | Sequence[int], n: int, *, heal: bool = False, **params: Any
    ) -> list[Completion]:
        """n continuations of one prompt, computed once; the first is what `complete` gives."""
        return self._answer([self.prompts.completion(prompt, heal=heal)], params, n=n)

    def infill(
        self,
        prefix: str,
        suffix: str,
        *,
        order: Order = "auto",
        heal: bool = True,
        until_suffix: bool = True,
        nonempty: bool = False,
        **params: Any,
    ) -> Completion:
        """The middle between `prefix` and `suffix`.

        Args:
            order: "psm" (prefix first), "spm" (suffix first: a growing prefix stays in the cache),
                or "auto": SPM, unless the prefix ends inside a word and `heal` is off.
            heal: with SPM, undo the token boundary at the end of the prefix.
            until_suffix: end, too, where the answer begins to repeat the suffix: at its first line,
                whole, if that has 8 letters or signs. Small models often go on and write it again.
            nonempty: something is missing for certain, so the answer is more than white space.

        Raises:
            InfillingUnsupportedError: the model was not trained to infill.
            ContextOverflowError: prefix and suffix do not fit.
        """
        prompt = self.prompts.infilling(
            prefix, suffix, order=order, heal=heal, until_suffix=until_suffix, nonempty=nonempty
        )
        return self._answer([prompt], params)[0]

    def chat(self, messages: Sequence[Message], **params: Any) -> Completion:
        """The answer to messages {"role", "content"}, in the model's own chat format."""
        return self._answer([self.prompts.chat(messages)], params)[0]

    def stream(
        self, prompt: str | Sequence[int], *, heal: bool = False, **params: Any
    ) -> TextIterator:
        """`complete`, piece by piece. Raises as it does, before the first piece."""
        return self._stream(self.prompts.completion(prompt, heal=heal), params)

    def stream_infill(
        self,
        prefix: str,
        suffix: str,
        *,
        order: Order = "auto",
        heal: bool = True,
        until_suffix: bool = True,
        nonempty: bool = False,
        **params: Any,
    ) -> TextIterator:
        """`infill`, piece by piece."""
        prompt = self.prompts.infilling(
            prefix, suffix, order=order, heal=heal, until_suffix=until_suffix, nonempty=nonempty
        )
        return self._stream(prompt, params)

    def stream_chat(self, messages: Sequence[Message], **params: Any) -> TextIterator:
        """`chat`, piece by piece."""
        return self._stream(self.prompts.chat(messages), params)

    def logits(self, ids: Sequence[int]) -> Logits:
        """Logits after each id, float32 [T, vocab]: 200 MB per 1,000 tokens of SmolLM2."""
        return self.engine.logits(integers(ids))

    def embed(self, text: str) -> npt.NDArray[np.float32]:
        """Mean of the last normalized hidden states, scaled to length 1, float32 [D].

        Raises RequestError where the runner keeps its hidden states to itself.
        """
        hidden_TD = self.engine.hidden(prompts.completion(self.tokenizer, text))
        mean_D = hidden_TD.mean(axis=0, dtype=np.float64)
        embedding_D: npt.NDArray[np.float32] = (mean_D / np.linalg.norm(mean_D)).astype(np.float32)
        return embedding_D

    # Answers.

    def _answer(
        self, prompts: list[Prompt], keywords: dict[str, Any], n: int = 1
    ) -> list[Completion]:
        params = self.prompts.resolved(SamplingParams.from_keywords(keywords))
        answers = {}
        for place, answer, _piece in answer_events(self.engine, self.tokenizer, prompts, params, n):
            answers[place] = answer
        return [answers[place].completion() for place in sorted(answers)]

    def _stream(self, prompt: Prompt, keywords: dict[str, Any]) -> TextIterator:
        params = self.prompts.resolved(SamplingParams.from_keywords(keywords))
        return TextIterator(answer_events(self.engine, self.tokenizer, [prompt], params))
