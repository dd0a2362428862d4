"""Every suite: a model that knows the answers scores all, one that is wrong scores nothing; and the
prompts, to the letter where the paper gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codellama.evaluate.apps import Apps
from codellama.evaluate.asks import Continue, Decoding, Fill, Likelihood, Positions, Raw
from codellama.evaluate.bleu import edit_similarity, sentence_bleu, words
from codellama.evaluate.classifier import Classifier, auc, cross_validate
from codellama.evaluate.corpus import held_out, held_out_files
from codellama.evaluate.data import Data
from codellama.evaluate.executor import SandboxExecutor
from codellama.evaluate.gsm8k import final_number
from codellama.evaluate.infilling import documented
from codellama.evaluate.suite import Options, Suite
from codellama.evaluate.suites import SUITES, make_suite
from evaluation_support import judge_all


class Scripted:
    """asks.Model for suites that need one to make their problems."""

    name = "scripted"
    parallel = 1

    def __init__(self, *, infills: bool = True, context: int = 4096) -> None:
        self.infills = infills
        self.context = context

    def identity(self) -> dict[str, str | int]:
        return {"name": self.name}

    def count(self, text: str) -> int:
        return len(words(text))

    def answers(self, ask: Any, n: int, decoding: Decoding) -> list[Raw]:
        raise NotImplementedError


def score(suite: Suite, executor: Any, *, wrong: bool) -> dict[str, Any]:
    problems = suite.selected()
    assert problems
    outcomes = {}
    for problem in problems:
        assert suite.ask(problem) is not None
        raw = suite.wrong(problem) if wrong else suite.oracle(problem)
        raw = json.loads(json.dumps(raw))  # as it comes out of its file
        outcomes[problem.task_id] = [suite.judge(problem, suite.extract(problem, raw), executor)]
    figures: dict[str, Any] = suite.score(problems, outcomes)
    return figures


# What the oracle and the wrong model get where that is not 1 and 0.
ENDS: dict[str, tuple[float, float]] = {
    "docstring-infilling": (100.0, 0.0),
    "perplexity": (1.0, pytest.approx(485165195.4)),
    "toxigen": (0.0, 1.0),
}
OWN_TESTS = {"bold", "truthfulqa-generation", "toxigen"}
EXECUTED = [name for name in SUITES if not name.startswith("multipl-e") and name not in OWN_TESTS]


@pytest.fixture
def all_data(shared_data: Path, tmp_path: Path) -> Data:
    """The data at hand, and tiny files in the form of what a user downloads."""
    for entry in shared_data.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps" / "test").symlink_to(shared_data / "apps_sample" / "train")
    (tmp_path / "gsm8k").mkdir()
    answer = "She has 3 + 4 = <<3+4=7>>7 apples.\n#### 7"
    line = json.dumps({"question": "How many apples?", "answer": answer}) + "\n"
    for split in ("train", "test"):
        (tmp_path / "gsm8k" / f"{split}.jsonl").write_text(line * 9)
    (tmp_path / "santacoder_fim").mkdir()
    fields = {"prompt": "def f(x):\n", "suffix": "\n    return y\n", "tests": ""}
    lines = [
        json.dumps({"name": "a", "language": k, "canonical_solution": "    y = x", **fields})
        for k in ("py", "java", "js")
    ]
    (tmp_path / "santacoder_fim" / "data.jsonl").write_text("\n".join(lines))
    return Data(tmp_path)


@pytest.mark.parametrize("name", EXECUTED)
def test_oracle_and_wrong_model(name: str, all_data: Data, executor: SandboxExecutor) -> None:
    options = Options(limit=5, lengths=(512, 1024))
    suite = make_suite(name, all_data, options, Scripted())
    best, worst = ENDS.get(name, (1.0, 0.0))
    assert score(suite, executor, wrong=False)[suite.metric] == best
    assert score(suite, executor, wrong=True)[suite.metric] == worst


def test_infilling_prompts(data: Data) -> None:
    name = "humaneval-infilling-single-line"
    suite = make_suite(name, data, Options(order="psm", heal=True), Scripted())
    problem = suite.problems()[0]
    ask = suite.ask(problem)
    assert isinstance(ask, Fill)
    assert (ask.order, ask.heal) == ("psm", True)
    assert ask.prefix == problem.data["prompt"] and ask.suffix == problem.data["suffix"]


def test_infilling_data_is_whole(data: Data) -> None:
    counts = {
        "single-line": 1033,
        "multi-line": 5815,
        "random-span": 1640,
        "random-span-light": 164,
    }
    for kind, count in counts.items():
        assert len(make_suite(f"humaneval-infilling-{kind}", data).problems()) == count


def test_a_model_that_cannot_infill_gets_the_baseline(data: Data) -> None:
    name = "humaneval-infilling-single-line"
    suite = make_suite(name, data, Options(), Scripted(infills=False))
    problem = suite.problems()[0]
    assert isinstance(suite.ask(problem), Continue)
    assert problem.data["canonical_solution"].count("\n") == 1
    assert suite.extract(problem, "    one\n    two\n") == "    one\n"
    assert "cannot infill" in suite.notes()[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["single-line", "random-span", "random-span-light"])
def test_every_infilling_reference_passes(kind: str, data: Data, executor: SandboxExecutor) -> None:
    suite = make_suite(f"humaneval-infilling-{kind}", data)
    problems = suite.problems()[:: 1 if kind == "random-span-light" else 4]
    assert set(judge_all(suite, problems, executor).values()) == {"passed"}


def test_docstring_gaps() -> None:
    text = 'def f(x):\n    """Return the double of x.\n\n    More.\n    """\n    return 2 * x\n'
    (problem,) = documented("a.py", text)
    assert problem.prompt == 'def f(x):\n    """ '
    assert problem.data["suffix"] == "\n    return 2 * x\n"
    assert problem.data["canonical_solution"] == "Return the double of x."
    assert documented("a.py", "def f(:") == []


def test_key_retrieval_has_the_papers_parts(data: Data) -> None:
    options = Options(lengths=(512, 2048, 8192))
    suite = make_suite("key-retrieval", data, options, Scripted(context=4096))
    problems = suite.problems()
    assert {p.data["length"] for p in problems} == {512, 2048}
    for problem in problems:
        value = problem.data["value"]
        key = (
            'def my_function() -> int:\n    """Note that this function is used at the end\n'
            f'    """\n    return {value}'
        )
        assert problem.prompt.count(key) == 1
        assert problem.prompt.endswith("assert my_function() == ")
        tokens = len(words(problem.prompt))
        assert 0.6 * problem.data["length"] < tokens < problem.data["length"]
        place = problem.prompt.index(key) / len(problem.prompt)
        if problem.data["length"] == 2048:
            assert abs(place - problem.data["position"]) < 0.25
    assert suite.problems() == make_suite("key-retrieval", data, options, Scripted()).problems()


def test_perplexity_by_position(data: Data) -> None:
    suite = make_suite("perplexity", data, Options(limit=2, lengths=(512, 1024)), Scripted())
    problem = suite.selected()[0]
    ask = suite.ask(problem)
    assert isinstance(ask, Positions) and ask.tokens == 1024
    losses = [1.0] * 127 + [2.0] * 384 + [0.5] * 512
    values = suite.judge(problem, losses, None).values  # type: ignore[arg-type]
    assert values["nll 0-128"] == 1.0
    assert values["nll 256-512"] == 2.0
    assert values["nll 512-1024"] == 0.5
    assert values["nll@512"] == pytest.approx((127 + 768) / 511)


def test_truthfulqa_choices_and_scores(data: Data) -> None:
    suite = make_suite("truthfulqa", data)
    problems = suite.problems()
    assert len(problems) == 817
    ask = suite.ask(problems[0])
    assert isinstance(ask, Likelihood)
    assert ask.context.endswith("Q: What happens if you eat a pomegranate?\nA:")
    assert ask.context.count("Q: ") == 7
    assert all(each.startswith(" ") for each in ask.continuations)
    even = [[-1.0, 5] for _ in ask.continuations]
    values = suite.judge(problems[0], even, None).values  # type: ignore[arg-type]
    true = sum(problems[0].data["mc2_targets"].values())
    assert values["MC2"] == pytest.approx(true / len(problems[0].data["mc2_targets"]))


def test_bold_is_vaders_compound(data: Data) -> None:
    suite = make_suite("bold", data, Options(limit=50))
    right, wrong = (score(suite, None, wrong=each)["mean sentiment"] for each in (False, True))
    assert right > 0.7
    assert wrong < -0.7
    assert len(suite.problems()) == 23_679 - 12 - 29


def test_bold_reference_means_of_the_human_sentences(data: Data) -> None:
    """VADER over BOLD's own Wikipedia sentences, as measured elsewhere: actors .129, actresses
    .157."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyser = SentimentIntensityAnalyzer()
    wiki = data.json("bold/wikipedia/gender_wiki.json")
    for group, wanted in (("American_actors", 0.129), ("American_actresses", 0.157)):
        texts = [text for texts in wiki[group].values() for text in texts]
        scores = [analyser.polarity_scores(text)["compound"] for text in texts]
        assert sum(scores) / len(scores) == pytest.approx(wanted, abs=0.001)


@pytest.mark.slow
def test_toxigen_beside_its_classifiers_measure(data: Data) -> None:
    suite = make_suite("toxigen", data, Options(limit=200))
    right, wrong = (score(suite, None, wrong=each) for each in (False, True))
    assert right[suite.metric] == 0.0
    assert wrong[suite.metric] == 1.0
    assert 0.83 < right["classifier's AUC"] < 0.90
    assert right["classifier's accuracy"] > right["classifier's majority class"] + 0.1


@pytest.mark.slow
def test_truthfulqa_judge_beside_its_measure(data: Data) -> None:
    suite = make_suite("truthfulqa-generation", data, Options(limit=100))
    figures = score(suite, None, wrong=False)
    assert figures["true (local judge)"] > 0.8
    assert 0.65 < figures["truth judge's accuracy"] < 0.8
    assert figures["info judge's accuracy"] > figures["info judge's majority class"]


def test_apps_kinds_and_hidden_tests(all_data: Data, executor: SandboxExecutor) -> None:
    suite = make_suite("apps", all_data)
    assert isinstance(suite, Apps)
    problems = suite.problems()
    assert len(problems) == 5
    kinds = {p.data["guide"] for p in problems}
    assert kinds == {"read from and write to standard IO", "use the provided function signature"}
    ask = suite.ask(problems[0])
    assert isinstance(ask, Continue)
    assert ask.prompt.startswith("Q: Write a python code to solve the following coding problem")
    assert ask.prompt.endswith("\nA:")
    for problem in problems:
        passing = [
            suite.judge(problem, solution, executor).verdict.passed
            for solution in problem.data["solutions"][:3]
        ]
        assert any(passing)


def test_extraction_of_fenced_answers(all_data: Data) -> None:
    suite = make_suite("apps", all_data)
    problem = suite.problems()[0]
    assert suite.extract(problem, " ```\nx = 1\n``` and") == "x = 1\n"
    assert suite.extract(problem, " ```python\nx = 1") == "x = 1"
    assert suite.extract(problem, "x = 1") == "x = 1"


def test_final_numbers() -> None:
    assert final_number("a 1 b 2.5") == 2.5
    assert final_number("#### -1,234 and 5") == -1234.0
    assert final_number("none") is None


def test_bleu() -> None:
    assert sentence_bleu("a b c d e", "a b c d e") == 100.0
    assert sentence_bleu("", "a") == 0.0
    assert sentence_bleu("x", "a") == 0.0
    # Three of four words, two of three pairs, one of two triples, none of one; smoothed.
    wanted = 100 * (3 / 4 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert sentence_bleu("a b c x", "a b c d") == pytest.approx(wanted)
    assert edit_similarity("abcd", "abxd") == 0.75


def test_held_out_files(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / f"{i}.py").write_text(f"x = {i}\n")
    names = [name for name, _ in held_out_files(str(tmp_path))]
    assert 2 <= len(names) <= 25
    assert all(map(held_out, names))
    assert names == [name for name, _ in held_out_files(str(tmp_path))]


def test_classifier_learns_and_is_measured_on_other_groups() -> None:
    texts = [f"{'good fine' if i % 2 else 'bad awful'} thing {i}" for i in range(80)]
    labels = [bool(i % 2) for i in range(80)]
    accuracy, area, majority = cross_validate(texts, labels, [i // 2 for i in range(80)])
    assert (accuracy, area, majority) == (1.0, 1.0, 0.5)
    model = Classifier.train(texts, labels)
    assert model.probability("a good one") > 0.5 > model.probability("an awful one")
    assert auc([0.1, 0.2, 0.2, 0.9], [False, True, False, True]) == 0.875
