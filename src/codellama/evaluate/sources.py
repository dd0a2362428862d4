"""Origins of the data files: repository, commit, path, sha256 of the unpacked bytes, licence.

Repositories on GitHub. What has no address here is gated or too large to pin: the note says how to
get it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SOURCES", "Source"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a file comes from. An empty address means by hand, as the note says."""

    address: str
    sha256: str
    license: str
    note: str = ""


def _github(repository: str, commit: str, path: str, sha256: str, license: str) -> Source:
    address = f"https://raw.githubusercontent.com/{repository}/{commit}/{path}"
    return Source(address, sha256, license)


def _by_hand(license: str, note: str) -> Source:
    return Source("", "", license, note)


SOURCES: dict[str, Source] = {
    "humaneval_infilling/HumanEval-SingleLineInfilling.jsonl": _github(
        "openai/human-eval-infilling",
        "88062ff9",
        "data/HumanEval-SingleLineInfilling.jsonl.gz",
        "6fffc71ec2f1674372fcc177511f92312f1a27a9eacd8e43255c9f5ee9eca8c8",
        "MIT",
    ),
    "humaneval_infilling/HumanEval-MultiLineInfilling.jsonl": _github(
        "openai/human-eval-infilling",
        "88062ff9",
        "data/HumanEval-MultiLineInfilling.jsonl.gz",
        "5b49f312f0a781420a4ae54f5e73176009b9cfc52731e3a0b9be726b451032d1",
        "MIT",
    ),
    "humaneval_infilling/HumanEval-RandomSpanInfilling.jsonl": _github(
        "openai/human-eval-infilling",
        "88062ff9",
        "data/HumanEval-RandomSpanInfilling.jsonl.gz",
        "4f15be2d4a479b504072c64e79702df184010f13bdf75f8b67ce08e054c48e26",
        "MIT",
    ),
    "humaneval_infilling/HumanEval-RandomSpanInfillingLight.jsonl": _github(
        "openai/human-eval-infilling",
        "88062ff9",
        "data/HumanEval-RandomSpanInfillingLight.jsonl.gz",
        "cbb2b36f90311a3a7d844b6361852bb33e3ab11ab3bca2b7e85bfb9bf78c5891",
        "MIT",
    ),
    "mbpp/mbpp.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/MBPP/data/mbpp.jsonl",
        "ccf64ceae9c5403bf50a044cb6d505bfd2a2963ee58338ba268fd65beab92a9f",
        "CC-BY-4.0",
    ),
    "multipl_e/humaneval-cpp.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/HumanEval/data/humaneval-cpp.jsonl",
        "8717eabdf202137158c84506144b0fb1e73d5ecccbe5363ec79009ca014df629",
        "BSD-3-Clause, not for training",
    ),
    "multipl_e/humaneval-cs.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/HumanEval/data/humaneval-cs.jsonl",
        "1c3fe18be10addc2d0b96311f4db192ae3232e08628d17768d889d6ab87be224",
        "BSD-3-Clause, not for training",
    ),
    "multipl_e/humaneval-d.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/HumanEval/data/humaneval-d.jsonl",
        "226938c015f90d713a3e30d8f174f4a6d2c88820cf50512379a16890dda70332",
        "BSD-3-Clause, not for training",
    ),
    "multipl_e/humaneval-go.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/HumanEval/data/humaneval-go.jsonl",
        "7f5dfe3ff001049b1221e9d21a8119b5cbc38eb87c97fefc5d57fa7adc1df888",
        "BSD-3-Clause, not for training",
    ),
    "multipl_e/humaneval-java.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/HumanEval/data/humaneval-java.jsonl",
        "b21b015763452ec4f9f4e0e6425148ec331ace4da1232c8b4d441186185f6265",
        "BSD-3-Clause, not for training",
    ),
    "multipl_e/humaneval-jl.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/HumanEval/data/humaneval-jl.jsonl",
        "ef21bd920889c9c1ab0e87a825cc26bd895e7a715f569f8ba7de577f870b6815",
        "BSD-3-Clause, not for training",
    ),
    "multipl_e/humaneval-js.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/HumanEval/data/humaneval-js.jsonl",
        "634e2eee8d6e22de07c121b972207683dd96be76256bf44bdfc1a3386b739287",
        "BSD-3-Clause, not for training",
    ),
    "multipl_e/humaneval-lua.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/HumanEval/data/humaneval-lua.jsonl",
        "d2e91f3603f6aee63db2c2d5754d165397603a8c9bd6130842af7988b27a96fc",
        "BSD-3-Clause, not for training",
    ),
    "multipl_e/humaneval-php.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/HumanEval/data/humaneval-php.jsonl",
        "bebd86875b1d8e65a8b7e692ed7bdf64612b44aa388825ea4dab40c7047c786b",
        "BSD-3-Clause, not for training",
    ),
    "multipl_e/humaneval-pl.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/HumanEval/data/humaneval-pl.jsonl",
        "949048bff3eaea7ae47cd5759042c088a7c227d53c74fe95a80728fd5aefbf77",
        "BSD-3-Clause, not for training",
    ),
    "multipl_e/humaneval-r.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/HumanEval/data/humaneval-r.jsonl",
        "c2a3268ea54d2bfb8ce65bb2c808437ac0d9934c6caf99fcf75d6b6a4fb3f911",
        "BSD-3-Clause, not for training",
    ),
    "multipl_e/humaneval-rb.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/HumanEval/data/humaneval-rb.jsonl",
        "4204395b835019e32d55513325a0fad01c6d382fd1eb97b516f0458d00058302",
        "BSD-3-Clause, not for training",
    ),
    "multipl_e/humaneval-rkt.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/HumanEval/data/humaneval-rkt.jsonl",
        "083325daf55daf431ae6d6d17cf017afb18a6ec790d4c841b7c2b4752c5807ff",
        "BSD-3-Clause, not for training",
    ),
    "multipl_e/humaneval-rs.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/HumanEval/data/humaneval-rs.jsonl",
        "e33f562838e973b7e6b8d76dbc1fb84b076d7426629b4cdc624f12678778d2fa",
        "BSD-3-Clause, not for training",
    ),
    "multipl_e/humaneval-scala.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/HumanEval/data/humaneval-scala.jsonl",
        "482b72a16613a563755d642e37792da68471399789b069fba5b1249e831445f3",
        "BSD-3-Clause, not for training",
    ),
    "multipl_e/humaneval-sh.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/HumanEval/data/humaneval-sh.jsonl",
        "2f702106e9ce4aa7385de568d9248d6c57c90382d782b162cb9e072fbd01ccf8",
        "BSD-3-Clause, not for training",
    ),
    "multipl_e/humaneval-swift.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/HumanEval/data/humaneval-swift.jsonl",
        "e4418d6f532e4298969e727690cda80dc88b94e4abf836f8ff79ac18a737eaaa",
        "BSD-3-Clause, not for training",
    ),
    "multipl_e/humaneval-ts.jsonl": _github(
        "deepseek-ai/DeepSeek-Coder",
        "2f9fd859",
        "Evaluation/HumanEval/data/humaneval-ts.jsonl",
        "4b1af1050c9f226335d54a8c80553c39454a525cace3e67bdcfcc9092ba02637",
        "BSD-3-Clause, not for training",
    ),
    "truthfulqa/TruthfulQA_v1.csv": _github(
        "koppula/TruthfulQA",
        "4dee2311",
        "data/v1/TruthfulQA.csv",
        "f9bd9e859cc102cb1f647f1064da7e009be752c416845cf9fa56e6eaae403a7d",
        "Apache-2.0",
    ),
    "truthfulqa/mc_task_v1.json": _github(
        "koppula/TruthfulQA",
        "4dee2311",
        "data/v1/mc_task.json",
        "b3799639bc76c939836d587de7d30b48d91012cb34be04806d33106ce06c162a",
        "Apache-2.0",
    ),
    "truthfulqa/finetune_truth.jsonl": _github(
        "yizhongw/truthfulqa_reeval",
        "2de12d78",
        "data/finetune_truth.jsonl",
        "8e81d9f0dc592e26fb0d37106126e489d39ac75099828b1f2c8142f3ede60c6b",
        "Apache-2.0",
    ),
    "truthfulqa/finetune_info.jsonl": _github(
        "yizhongw/truthfulqa_reeval",
        "2de12d78",
        "data/finetune_info.jsonl",
        "b8e00e379f3aefcdb01b93886e67e0991ca90b5fdd389c0be4be2f5f00c07ec3",
        "Apache-2.0",
    ),
    "safenlp/toxiGen.json": _github(
        "microsoft/SafeNLP",
        "e351b6cb",
        "data/toxiGen.json",
        "42863b997f545833b8c9bfe7fc950aeaccc274d49f7386384db147face745fc3",
        "CDLA-Permissive-2.0",
    ),
    "bold/prompts/gender_prompt.json": _github(
        "amazon-science/bold",
        "3ad652c7",
        "prompts/gender_prompt.json",
        "a863aaf2492e3c911c39f435005abee2eba5f5edabe836e97de110cd83273054",
        "CC-BY-SA-4.0",
    ),
    "bold/prompts/political_ideology_prompt.json": _github(
        "amazon-science/bold",
        "3ad652c7",
        "prompts/political_ideology_prompt.json",
        "a83ea7cc272971b618231e13bcb5c1d1be5b208c92135c4ffde85be31f8ab4c6",
        "CC-BY-SA-4.0",
    ),
    "bold/prompts/profession_prompt.json": _github(
        "amazon-science/bold",
        "3ad652c7",
        "prompts/profession_prompt.json",
        "5508012069f20419559417e64d8bb2b8d864ebf8afedd21e5ca564393c291794",
        "CC-BY-SA-4.0",
    ),
    "bold/prompts/race_prompt.json": _github(
        "amazon-science/bold",
        "3ad652c7",
        "prompts/race_prompt.json",
        "200337f6c43b09671e580b1df6aea2cdc0196ee02779260e9881da07029e1cb6",
        "CC-BY-SA-4.0",
    ),
    "bold/prompts/religious_ideology_prompt.json": _github(
        "amazon-science/bold",
        "3ad652c7",
        "prompts/religious_ideology_prompt.json",
        "633830ea87d569e5476895a93f68b8f686cb0dcae6d67a1091a9247c5c4c931d",
        "CC-BY-SA-4.0",
    ),
    "apps": _by_hand(
        "MIT", "unpack APPS (hendrycks/apps) so that apps/test/0000/question.txt is there"
    ),
    "santacoder_fim": _by_hand(
        "BSD-3-Clause, not for training",
        "save bigcode/santacoder-fim-task as santacoder_fim/data.jsonl",
    ),
    "santacoder_fim/data.jsonl": _by_hand(
        "BSD-3-Clause, not for training",
        "save bigcode/santacoder-fim-task as santacoder_fim/data.jsonl",
    ),
    "gsm8k/test.jsonl": _by_hand(
        "MIT", "take test.jsonl and train.jsonl of openai/grade-school-math"
    ),
}
