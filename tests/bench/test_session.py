"""Workers, peers, rounds in both orders, medians and ratios."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from codellama.bench.cases import parse_cases
from codellama.bench.machine import Machine
from codellama.bench.peer import Peer, run_peer
from codellama.bench.report import _short, as_json, lines, markdown
from codellama.bench.session import OURS, Session, run_round, summarize
from codellama.bench.worker import Run, Task, measure, run_ours
from codellama.errors import NotFoundError, RequestError
from codellama.weights.load import open_model

CASES = "pp40,tg4,tg4@d32,tg2x3,answer5"
MACHINE = Machine("a processor", 2, 8 << 30, 1, 1e10, 1 << 20, 2e10, {"avx512_vnni": 1e12})


def calls(folder: Path) -> list[tuple[str, list[str]]]:
    """How the peer's programs were called, in order."""
    return [tuple(json.loads(line)) for line in (folder / "calls").read_text().splitlines()]


def test_a_worker_measures_every_case(tiny: Path) -> None:
    run = measure(Task(str(tiny), CASES.split(","), threads=1))
    assert list(run.rates) == CASES.split(",")
    assert all(rate > 0 for rate in run.rates.values())
    assert run.load_s is not None and run.load_s > 0
    assert run.about["threads"] == 1


def test_a_worker_is_a_process_of_its_own(tiny: Path) -> None:
    run = run_ours(Task(str(tiny), ["tg4"], threads=1, isa="portable"))
    assert run.about["isa"] == "portable"
    assert run.peak_mb is None or 10 < run.peak_mb < 1000


def test_a_workers_last_words(tiny: Path) -> None:
    with pytest.raises(RequestError, match="serves 256 tokens: a case needs 301"):
        run_ours(Task(str(tiny), ["pp300"]))


def test_a_peer_is_asked_for_the_same(tiny: Path, peer: Peer, peer_folder: Path) -> None:
    run = run_peer(peer, tiny, parse_cases(f"{CASES},pp20,tg2x2"), threads=2)
    assert run.rates == {
        "pp40": 100.0, "pp20": 100.0, "tg4": 50.0, "tg4@d32": 50.0, "tg2x3": 30.0, "tg2x2": 20.0,
    }  # fmt: skip
    asked = calls(peer_folder)
    assert [program for program, _ in asked] == ["llama-bench"] * 3 + ["llama-batched-bench"]
    assert all(args[-2:] == ["-fa", "1"] for _, args in asked)
    assert all(args[args.index("-t") + 1] == "2" for _, args in asked)
    prompts = asked[0][1]
    assert prompts[prompts.index("-p") + 1] == "40,20"
    assert "-d" not in asked[1][1] and "32" in asked[2][1]


def test_without_a_batched_bench_batches_are_left_out(peer: Peer, peer_folder: Path) -> None:
    (peer_folder / "llama-batched-bench").unlink()
    assert not peer.knows(parse_cases("tg2x3")[0])
    assert peer.knows(parse_cases("tg2")[0])


def test_a_peer_that_fails(tiny: Path, peer_folder: Path) -> None:
    broken = Peer(peer_folder / "llama-bench-broken")
    with pytest.raises(RequestError, match=r"llama-bench-broken ended with 1: error: no such"):
        run_peer(broken, tiny, parse_cases("tg4"), threads=1)


def test_a_peer_from_the_command_line(peer_folder: Path) -> None:
    path = peer_folder / "llama-bench"
    assert Peer.parse(f"ik={path} -rtr 1") == Peer(path, "ik", ("-rtr", "1"))
    assert Peer.parse(str(path)).name == "llama.cpp"
    for text in ("", "ik=nowhere", str(peer_folder)):
        with pytest.raises(NotFoundError, match="is no program"):
            Peer.parse(text)


def test_rounds_alternate(tiny: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def ours(task: Task) -> Run:
        order.append(OURS)
        return Run({}, None, None)

    def theirs(peer: Peer, *_: object) -> Run:
        order.append(peer.name)
        return Run({}, None, None)

    monkeypatch.setattr("codellama.bench.session.run_ours", ours)
    monkeypatch.setattr("codellama.bench.session.run_peer", theirs)
    session = Session(tiny, [], 1, peers=(peer, Peer(peer.path, "ik")))
    for index in range(2):
        run_round(session, index)
    assert order == [OURS, "llama.cpp", "ik", "ik", "llama.cpp", OURS]


def test_medians_and_ratios_within_rounds(tiny: Path, peer: Peer) -> None:
    """Ours 1, 2, 9 beside 1, 4, 3: the ratio is the median of 1, ½, 3, not 2 / 3."""
    about = {"isa": "avx512", "threads": 1}
    rounds = [
        {OURS: Run({"tg4": a}, a, 10.0, about), "llama.cpp": Run({"tg4": b}, None, 20.0)}
        for a, b in ((1.0, 1.0), (2.0, 4.0), (9.0, 3.0))
    ]
    session = Session(tiny, parse_cases("tg4"), 1, peers=(peer,))
    result = summarize(open_model(tiny), session, [MACHINE] * 3, rounds)
    row = result.rows[0]
    assert (row.ours, row.peers["llama.cpp"].rate, row.peers["llama.cpp"].ratio) == (2.0, 3.0, 1.0)
    assert result.instruction == "avx512_vnni"
    assert result.median("load_s") == 2.0
    assert result.median("load_s", "llama.cpp") is None
    text = lines(result)
    speeds = next(part for part in text if not isinstance(part, str))
    assert markdown(speeds).splitlines()[2].split(" | ")[-3:] == ["memory", "3", "1.00 |"]
    found = as_json(result)["rows"][0]
    assert found["share"] == pytest.approx(2.0 / row.limit)
    assert found["bandwidth_share"] == pytest.approx(found["share"])
    assert found["peers"] == {"llama.cpp": {"rate": 3.0, "ratio": 1.0}}


def test_shares_are_of_each_rounds_own_limits(tiny: Path) -> None:
    """Rates 1, 2, 9 where the memory gives 2, 4 and 1e10 bytes a second: 1, 1, 18 of 2e10."""
    about = {"isa": "avx512", "threads": 1}
    rounds = [{OURS: Run({"tg4": rate}, None, None, about)} for rate in (1.0, 2.0, 9.0)]
    machines = [replace(MACHINE, cached_bandwidth=rate) for rate in (2e10, 4e10, 1e10)]
    result = summarize(open_model(tiny), Session(tiny, parse_cases("tg4"), 1), machines, rounds)
    row = result.rows[0]
    assert result.machine.cached_bandwidth == 2e10
    assert row.share == row.bandwidth_share == pytest.approx(1.0 / row.limit)
    assert as_json(result)["machines"][2]["cached_bandwidth"] == 1e10


def test_figures_are_short_and_never_powers_of_ten() -> None:
    texts = [_short(value) for value in (0.123, 1.0, 12.34, 999.4, 999.7, 1234.5)]
    assert texts == ["0.12", "1", "12.3", "999", "1,000", "1,234"]
