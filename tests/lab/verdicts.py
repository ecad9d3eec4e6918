"""What a run of a driver proved: pure functions from what every caller saw to numbers and complaints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .attempts import most_per_second
from .bookkeeping import all_back
from .lag import Sample, worst_lag
from .operations import FAILED, OK, UNKNOWN, Operation

SLACK = 0.1
"""Part of its deadline that a caller may wait longer ..."""
GRACE = 0.05
"""... and seconds on top. The machine's own lag, measured beside the callers, is taken off."""
FAST = 0.001
"""Seconds in which a caller fails while the outage is known (99 of 100 callers)."""
RECOVERY = 1.0
"""Seconds from the server's return to the first success, the cap of the backoff not counted."""
_AROUND = 0.05
"""Seconds before and after an operation in which the machine's lag is looked at: it is measured only now and then."""
STRAGGLING = 0.1
"""Seconds from the first success until nobody fails any more."""
ATTEMPTS_PER_SECOND = 20
"""Connection attempts of a process within any one second, however many callers wait."""

LOG_LINES = 6
"""Lines of this app's log that a scenario may take, whatever they say."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is promised in one scenario. Times in seconds."""

    deadline: float
    """A command's."""
    check: float
    """A health check's, for a caller that has to wait for one."""
    backoff_cap: float
    outage: bool
    """Whether every caller is to fail while the fault lasts; its end is then followed by a recovery."""
    reads_survive: bool = False
    """No read fails."""
    writes_survive: bool = False
    """No write fails, nor is its outcome unknown."""
    durable: bool = True
    """Whether the server keeps what it acknowledges; replicas that follow later may not, while a fault lasts."""
    kinds: frozenset[str] = frozenset()
    """What the fault may be called."""
    tolerated: frozenset[str] = frozenset()
    """What a caller may be told at any time."""
    known_after: float = 0.0
    """Seconds that may pass before every caller fails at once, apart from the first one's deadline."""
    fast: float = FAST
    """Seconds in which a caller fails while the outage is known."""
    straggling: float = STRAGGLING
    """Seconds in which callers may still fail who ask after the first success."""
    attempts_per_second: int = ATTEMPTS_PER_SECOND


@dataclass
class Findings:
    """The numbers of a run, and every promise it broke."""

    complaints: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)

    def complain(self, text: str) -> None:
        self.complaints.append(text)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that was seen. ``final`` is what the server holds at the end.

    ``struck`` is when the fault began, ``healing`` when its cause was about to go, ``healed`` when the server could
    serve again (monotonic seconds).
    """

    operations: Sequence[Operation]
    struck: float
    healing: float
    healed: float
    lag: Sequence[Sample]
    attempts: Sequence[float] | None
    """When a connection was tried (monotonic seconds); None where nobody counts."""
    final: Mapping[str, Any]
    log: Sequence[str] = ()
    lookups: Sequence[float] = ()
    """When a name server was asked (monotonic seconds)."""
    rest: float = 0.0
    """Seconds that a caller may take to ask again."""


def judge(run: Run, rules: Rules) -> Findings:
    """Return what a run proved."""
    findings = Findings()
    operations = sorted(run.operations, key=lambda each: each.asked)
    _count(operations, findings)
    if rules.durable:
        find_wrong_replies(operations, run.final, findings)
    else:
        find_losses_of_a_failover(run, findings)
    _judge_waits(operations, run, rules, findings)
    _judge_errors(operations, run, rules, findings)
    if rules.outage:
        _judge_outage(operations, run, rules, findings)
    _judge_return(operations, run, rules, findings)
    _judge_stampede(run, rules, findings)
    _judge_log(run.log, findings)
    return findings


def _count(operations: Sequence[Operation], findings: Findings) -> None:
    outcomes = [each.outcome for each in operations]
    findings.numbers.update(operations=len(outcomes), failed=outcomes.count(FAILED), unknown=outcomes.count(UNKNOWN))
    if not operations:
        findings.complain("nothing was done at all")


# What was answered, and what became of the writes.


def find_wrong_replies(operations: Iterable[Operation], final: Mapping[str, Any], findings: Findings) -> None:
    """Compare every reply, and what the server holds at the end, with what the callers wrote."""
    wrong = lost = twice = denied = 0
    may_hold: dict[str, set[Any]] = defaultdict(lambda: {None})
    counted: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for each in sorted(operations, key=lambda each: each.ended):
        if each.kind == "set" and each.outcome == OK:
            may_hold[each.key] = {each.value}
        elif each.kind == "set":
            may_hold[each.key].update({each.value} if each.outcome == UNKNOWN else ())
        elif each.kind == "get" and each.outcome == OK and each.reply not in may_hold[each.key]:
            if each.reply is None:
                lost += 1
                findings.complain(f"acknowledged, then not there: {each.key}")
            else:
                wrong += 1
                findings.complain(f"wrong reply: GET {each.key} gave {each.reply!r:.80}")
        elif each.kind == "incr":
            sure, perhaps = counted[each.key]
            if each.outcome == OK:
                if not sure < each.reply <= sure + perhaps + 1:
                    wrong += 1
                    findings.complain(f"wrong reply: INCR {each.key} gave {each.reply}, not {sure + 1}+{perhaps}")
                # What the reply counts beyond this one has happened; the rest of what was unknown may still come.
                reached = max(sure, each.reply)
                counted[each.key] = (reached, max(0, sure + perhaps + 1 - reached))
            elif each.outcome == UNKNOWN:
                counted[each.key] = (sure, perhaps + 1)
    for key, values in may_hold.items():
        if key in final and final[key] not in values:
            lost += values != {None}
            denied += values == {None}
            findings.complain(f"the server holds {final[key]!r:.80} in {key}, not one of {values!r:.80}")
    for key, (sure, perhaps) in counted.items():
        count = int(final.get(key) or 0)
        if count < sure:
            lost += 1
            findings.complain(f"{key} was acknowledged up to {sure} and counts {count}")
        if count > sure + perhaps:
            twice += 1
            findings.complain(f"{key} counts {count}: {sure} acknowledged, {perhaps} unknown, the rest twice or denied")
    findings.numbers.update(wrong_replies=wrong, writes_lost=lost, writes_twice=twice, writes_denied_yet_done=denied)


def find_losses_of_a_failover(run: Run, findings: Findings) -> None:
    """The same where what was acknowledged while the fault began or lasted may be lost, but nothing else.

    An increment that is done twice is found unless a lost one hides it.
    """
    written: dict[str, set[Any]] = defaultdict(lambda: {None})
    kept: dict[str, Any] = {}
    counted: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    missing = wrong = lost = twice = 0
    for each in sorted(run.operations, key=lambda each: each.ended):
        to_keep = each.outcome == OK and (each.ended < run.struck or each.asked >= run.healed)
        if each.kind == "set" and each.outcome != FAILED:
            written[each.key].add(each.value)
            kept.update({each.key: each.value} if to_keep else ())
        elif each.kind == "get" and each.outcome == OK:
            missing += each.reply is None and len(written[each.key]) > 1
            if each.reply not in written[each.key]:
                wrong += 1
                findings.complain(f"wrong reply: GET {each.key} gave {each.reply!r:.80}")
            elif each.reply is None and each.key in kept:
                lost += 1
                findings.complain(f"acknowledged when nothing was amiss, then not there: {each.key}")
        elif each.kind == "incr" and each.outcome != FAILED:
            sure, most = counted[each.key]
            counted[each.key] = (sure + to_keep, most + 1)
            if each.outcome == OK and each.reply > most + 1:
                twice += 1
                findings.complain(f"INCR {each.key} gave {each.reply} when it had been asked for {most + 1} times")
    for key, value in kept.items():
        if key in run.final and run.final[key] != value:
            lost += 1
            findings.complain(f"acknowledged when nothing was amiss, then not there at the end: {key}")
    for key, (sure, most) in counted.items():
        count = int(run.final.get(key) or 0)
        lost += count < sure
        twice += count > most
        if not sure <= count <= most:
            findings.complain(f"{key} counts {count}: not less than {sure} are to be kept, {most} may have been done")
    findings.numbers.update(
        wrong_replies=wrong, writes_lost=lost, writes_twice=twice, reads_of_writes_that_may_be_lost=missing
    )


# How long it took.


def _judge_waits(operations: Sequence[Operation], run: Run, rules: Rules, findings: Findings) -> None:
    worst = 0.0
    for each in operations:
        granted = each.ended if each.granted is None else each.granted
        worst = max(worst, each.ended - each.asked)
        for waited, limit, what in (
            (granted - each.asked, rules.check, "a health check"),
            (each.ended - granted, rules.deadline, each.kind.upper()),
        ):
            late = waited - limit * (1 + SLACK) - GRACE
            if late > 0 and late > worst_lag(run.lag, each.asked, each.ended):
                findings.complain(f"waited {waited:.3f} s for {what}, whose deadline is {limit} s ({each.error})")
    findings.numbers["worst_wait_ms"] = round(worst * 1000, 1)
    findings.numbers["worst_lag_ms"] = round(max((late for _, late in run.lag), default=0.0) * 1000, 1)


def _judge_errors(operations: Sequence[Operation], run: Run, rules: Rules, findings: Findings) -> None:
    bad = [each for each in operations if each.outcome != OK]
    # Failures after the return are judged as a late recovery.
    until = run.healed + RECOVERY + rules.backoff_cap
    for each in bad:
        if (each.ended < run.struck or each.asked > until) and each.fault not in rules.tolerated:
            findings.complain(f"{each.kind.upper()} failed without a fault: {each.error}, {each.fault}")
        if rules.reads_survive and each.kind == "get":
            findings.complain(f"a read failed: {each.error}")
        if rules.writes_survive and each.kind != "get":
            findings.complain(f"a write failed: {each.error}")
        if not each.fault:
            findings.complain(f"not an exception that a caller of redis-py expects: {each.error}")
    named = {each.fault for each in bad}
    findings.numbers["named"] = ", ".join(sorted(named))


def _judge_outage(operations: Sequence[Operation], run: Run, rules: Rules, findings: Findings) -> None:
    during = [each for each in operations if each.asked >= run.struck and each.ended <= run.healing]
    failures = [each for each in during if each.outcome != OK]
    if not failures:
        findings.complain("nobody noticed the outage")
        return
    # What may be said at any time says nothing of the outage.
    noticed = min(each.ended for each in [each for each in failures if each.fault not in rules.tolerated] or failures)
    first = min(each.asked for each in operations if each.ended >= run.struck)
    findings.numbers["noticed_ms"] = round((noticed - max(first, run.struck)) * 1000, 1)
    told = min((each.ended for each in failures if each.error.startswith("RedisUnavailable")), default=noticed)
    waiting = [each.ended - told for each in operations if each.asked < told < each.ended]
    findings.numbers["last_waiter_ms"] = round(max(waiting, default=0.0) * 1000, 1)
    known = noticed + rules.known_after
    later = [each for each in during if each.asked > known]
    if not later:
        findings.complain("nobody asked while the outage was known")
        return
    answered = [each for each in later if each.outcome == OK]
    if answered:
        findings.complain(f"{len(answered)} of {len(later)} callers were served while the outage was known")
    unnamed = {each.fault for each in later if each.outcome == FAILED} - rules.kinds
    if unnamed:
        findings.complain(f"the fault was called {', '.join(sorted(unnamed))}, not {', '.join(sorted(rules.kinds))}")
    waits = sorted(each.ended - each.asked for each in later)
    median, high = waits[len(waits) // 2], waits[min(len(waits) - 1, int(len(waits) * 0.99))]
    findings.numbers.update(fail_fast_median_us=round(median * 1e6), fail_fast_p99_us=round(high * 1e6))
    if median > rules.fast:
        findings.complain(f"the median of later callers took {median * 1000:.2f} ms to fail")
    # Each slow one is excused by what the machine did to it, none by what it did to others.
    slow = [each for each in later if each.ended - each.asked > rules.fast]
    own = [each.ended - each.asked - worst_lag(run.lag, each.asked - _AROUND, each.ended + _AROUND) for each in slow]
    late = sorted(seconds for seconds in own if seconds > rules.fast)
    if len(late) > len(later) // 100:
        findings.complain(f"{len(late)} of {len(later)} later callers took up to {late[-1] * 1000:.2f} ms to fail")
    _judge_recovery(operations, run, rules, findings)


def _judge_recovery(operations: Sequence[Operation], run: Run, rules: Rules, findings: Findings) -> None:
    served = [each.ended for each in operations if each.outcome == OK and each.asked >= run.healed]
    if not served:
        findings.complain("no recovery")
        return
    first = min(served)
    took, limit = first - run.healed, RECOVERY + rules.backoff_cap
    findings.numbers["recovered_ms"] = round(took * 1000, 1)
    if took > limit + worst_lag(run.lag, run.healed, first):
        findings.complain(f"recovered {took:.2f} s after the server")
    known = first + rules.straggling + worst_lag(run.lag, run.healed, first + rules.straggling)
    failed = [each for each in operations if each.outcome != OK and each.asked > known]
    if failed := [each for each in failed if each.fault not in rules.tolerated]:
        since, errors = failed[0].asked - first, sorted({each.error for each in failed})
        findings.complain(f"{len(failed)} failed, {since:.2f} s and more after the first success: {errors[0]}")


def _judge_return(operations: Sequence[Operation], run: Run, rules: Rules, findings: Findings) -> None:
    took = all_back(operations, run.healed, len({each.caller for each in operations}))
    if took is None:
        findings.complain("not every caller was served again")
        return
    findings.numbers["all_back_ms"] = round(took * 1000, 1)
    limit = RECOVERY + rules.backoff_cap + run.rest
    if rules.outage and took > limit + worst_lag(run.lag, run.healed, run.healed + took):
        findings.complain(f"the last caller was served {took:.2f} s after the server's return")


def _judge_stampede(run: Run, rules: Rules, findings: Findings) -> None:
    limit = rules.attempts_per_second
    if run.attempts is not None:
        rate = most_per_second(list(run.attempts))
        findings.numbers.update(connections_tried=len(run.attempts), attempts_per_second=rate)
        if rate > limit:
            findings.complain(f"{rate} connection attempts within a second, {limit} are promised")
    asked = most_per_second(list(run.lookups))
    findings.numbers["lookups_per_second"] = asked
    if asked > limit:
        findings.complain(f"{asked} names looked up within a second, {limit} are promised")


def _judge_log(log: Sequence[str], findings: Findings) -> None:
    findings.numbers["log_lines"] = len(log)
    if len(log) > LOG_LINES:
        findings.complain(f"{len(log)} lines of log, {LOG_LINES} at most are promised: {log[-1]}")
    for line in {line for line in log if log.count(line) > 1}:
        findings.complain(f"said {log.count(line)} times: {line}")
