"""The check of the benchmark's ratios, with made-up results: nothing is timed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import check
from benchmarks.goals import RATIOS, Ratio
from benchmarks.parts import PARTS

Results = dict[str, Any]
LOW, KEPT = 0.79, 0.81


def situation_of(results: Results, ratio: Ratio) -> dict[str, Any]:
    situations: list[dict[str, Any]] = results.setdefault(ratio.work.key, [])
    for situation in situations:
        if situation["callers"] == ratio.callers:
            return situation
    situations.append({"bytes": 100, "callers": ratio.callers, "results": []})
    return situations[-1]


def made_up(slower: Ratio | None = None, by: float = 1.0) -> Results:
    """Return results in which each ratio is 10, but for the ratio ``slower``."""
    results: Results = {}
    for ratio in RATIOS:
        contenders = situation_of(results, ratio)["results"]
        if not any(one["contender"] == ratio.work.ours for one in contenders):
            contenders.append({"contender": ratio.work.ours, "per_second": 1000, "per_cpu_second": 1000})
        if not any(one["contender"] == ratio.against for one in contenders):
            contenders.append({"contender": ratio.against, "per_second": 100, "per_cpu_second": 100})
    if slower is not None:
        rate = "per_cpu_second" if slower.by_cpu else "per_second"
        contenders = situation_of(results, slower)["results"]
        (peer,) = [one for one in contenders if one["contender"] == slower.against]
        peer[rate] /= by
    return results


def low_in(measured: Results) -> list[Ratio]:
    return [one.ratio for one in check.compare(made_up(), measured) if not one.kept]


def run(tmp_path: Path, recorded: Results, measured: Results) -> int:
    """Return the exit code of the check of two files."""
    paths = [tmp_path / "recorded.json", tmp_path / "measured.json"]
    for path, results in zip(paths, (recorded, measured), strict=True):
        path.write_text(json.dumps(results))
    return check.main(["--recorded", str(paths[0]), str(paths[1])])


def test_the_same_results_keep_every_ratio() -> None:
    assert len(check.compare(made_up(), made_up())) == len(RATIOS)
    assert low_in(made_up()) == []


@pytest.mark.parametrize("ratio", RATIOS, ids=lambda ratio: f"{ratio.work.key}-{ratio.callers}-{ratio.against}")
def test_each_ratio_is_low_below_four_fifths_of_the_recorded_one(ratio: Ratio) -> None:
    assert low_in(made_up(ratio, LOW)) == [ratio]
    assert low_in(made_up(ratio, KEPT)) == []


def test_a_machine_twice_as_slow_keeps_every_ratio() -> None:
    slow = made_up()
    for situations in slow.values():
        for contender in (one for situation in situations for one in situation["results"]):
            contender["per_second"] /= 2
            contender["per_cpu_second"] /= 2
    assert low_in(slow) == []


def test_a_ratio_of_a_missing_peer_is_not_kept() -> None:
    without = made_up()
    del without["sync_get"]
    assert {ratio.work.key for ratio in low_in(without)} == {"sync_get"}


def test_a_ratio_that_is_not_recorded_is_not_compared() -> None:
    recorded = made_up()
    del recorded["sync_get"]
    compared = {one.ratio.work.key for one in check.compare(recorded, made_up())}
    assert compared == {ratio.work.key for ratio in RATIOS} - {"sync_get"}


class Runs:
    """Stands for the measurement: returns made-up results in turn, and notes which parts it was asked for."""

    def __init__(self, *results: Results) -> None:
        self.results = list(results)
        self.asked: list[set[str]] = []

    def __call__(self, parts: Iterable[str]) -> Results:
        self.asked.append(set(parts))
        return copy.deepcopy(self.results.pop(0))


def test_every_part_with_a_recorded_ratio_is_measured_once() -> None:
    runs = Runs(made_up())
    assert all(one.kept for one in check.check(made_up(), runs))
    assert runs.asked == [{"get", "sync", "cache", "view", "cacheview"}]
    assert runs.asked[0] <= set(PARTS)


def test_a_part_with_a_low_ratio_is_measured_again() -> None:
    low = RATIOS[0]
    runs = Runs(made_up(low, LOW), {"get": made_up()["get"]})
    assert all(one.kept for one in check.check(made_up(), runs))
    assert runs.asked[1:] == [{"get"}]


def test_a_ratio_that_is_low_twice_stays_low() -> None:
    low = RATIOS[0]
    runs = Runs(made_up(low, LOW), {"get": made_up(low, LOW)["get"]})
    assert [one.ratio for one in check.check(made_up(), runs) if not one.kept] == [low]


def test_a_missing_peer_is_not_measured_again() -> None:
    without = made_up()
    del without["sync_get"]
    runs = Runs(without)
    assert {one.ratio.work.key for one in check.check(made_up(), runs) if not one.kept} == {"sync_get"}


def test_the_exit_code_tells_whether_a_ratio_is_low(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, made_up(), made_up()) == 0
    assert "LOW" not in capsys.readouterr().out
    assert run(tmp_path, made_up(), made_up(RATIOS[0], LOW)) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.endswith("LOW")]
    assert line.split() == "GET of 100 bytes, 1 caller, against redis-py asyncio 10.00 7.90 0.79 LOW".split()


def test_results_without_a_ratio_fail_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, {}, made_up()) == 1
    assert "run `make bench`" in capsys.readouterr().out


def test_the_recorded_results_have_ratios() -> None:
    recorded = json.loads(check.RECORDED.read_text())
    assert {one.ratio.work.key for one in check.compare(recorded, recorded)} == set(check.PART_OF_WORK)
