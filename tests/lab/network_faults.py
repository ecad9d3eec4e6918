"""What can happen on the way to a server: to its address, to its packets, to its name."""

from __future__ import annotations

import threading

from .faults import Fault
from .proxy import Proxy
from .stage import SECOND_ADDRESS


class Refused(Fault):
    name = "connection refused"
    kinds = frozenset({"refused"})

    def strike(self) -> None:
        self.proxy.refuse()
        self.proxy.cut()

    def heal(self) -> None:
        self.proxy.accept()


class Unreachable(Fault):
    name = "network unreachable"
    kinds = frozenset({"unreachable"})

    def strike(self) -> None:
        self.stage.resolver.point_nowhere()
        self.proxy.cut()

    def heal(self) -> None:
        self.stage.resolver.address = self.proxy.host


class BlackHole(Fault):
    name = "packets dropped"
    kinds = frozenset({"timeout"})
    known_after = 0.6
    hold = 1.5

    def strike(self) -> None:
        self.proxy.block()
        self.proxy.half_open()

    def heal(self) -> None:
        self.proxy.accept()


class SilentMidReply(Fault):
    name = "silence in the middle of a reply"
    kinds = frozenset({"timeout"})
    known_after = 0.6
    hold = 1.5

    def strike(self) -> None:
        self.proxy.silent_after_reply_bytes = 3
        self.proxy.block()

    def heal(self) -> None:
        self.proxy.heal()
        self.proxy.accept()


class HalfOpen(Fault):
    name = "half-open connection"
    outage = False

    def strike(self) -> None:
        assert self.proxy.half_open() > 0, "there was no connection to leave half open"

    def heal(self) -> None:
        pass


class NameUnknown(Fault):
    name = "DNS failure"
    kinds = frozenset({"dns"})

    def strike(self) -> None:
        self.stage.resolver.fail()
        self.proxy.cut()

    def heal(self) -> None:
        self.stage.resolver.address = self.proxy.host


class NameServerSilent(Fault):
    name = "name server does not answer"
    kinds = frozenset({"dns"})
    known_after = 0.6
    hold = 1.5

    def strike(self) -> None:
        self.stage.resolver.hang()
        self.proxy.cut()

    def heal(self) -> None:
        self.numbers["threads_held"] = self.stage.resolver.most_waiting
        self.stage.resolver.answer()
        assert 0 < self.numbers["threads_held"] <= 3, "the name server holds more threads than the engine may spend"


class AddressChanged(Fault):
    name = "address changed"
    outage = False
    reads_survive = True

    def strike(self) -> None:
        self._other = Proxy(self.server.port, SECOND_ADDRESS, self.proxy.port).start()
        self.stage.resolver.address = SECOND_ADDRESS
        self.proxy.refuse()
        assert self.proxy.cut() > 0, "nobody had to look for the new address"

    def heal(self) -> None:
        # Nothing goes back: the new address stays.
        self.stage._stack.callback(self._other.stop)


class Garbage(Fault):
    name = "garbage on the port"
    kinds = frozenset({"not_redis"})

    def strike(self) -> None:
        self.proxy.garbage = b"\x00\xff this is no reply\r\n"

    def heal(self) -> None:
        self.proxy.heal()


class OneByteASecond(Fault):
    name = "one byte a second"
    kinds = frozenset({"timeout"})
    known_after = 0.6
    hold = 1.5

    def strike(self) -> None:
        self.proxy.piece, self.proxy.reply_delay = 1, 1.0

    def heal(self) -> None:
        self.proxy.heal()


class SlowNetwork(Fault):
    name = "latency, jitter, little bandwidth"
    outage = False
    reads_survive = True
    writes_survive = True
    # The facts for the pages are kilobytes, which would hold up the callers' own replies.
    shown = False

    def strike(self) -> None:
        self.proxy.request_delay, self.proxy.jitter, self.proxy.bandwidth = 0.01, 0.02, 500_000

    def heal(self) -> None:
        self.proxy.heal()


class SingleBytes(SlowNetwork):
    name = "every byte by itself"

    def strike(self) -> None:
        self.proxy.piece = 1


class Truncated(Fault):
    name = "replies cut off"
    hold = 1.5
    outage = False
    reads_survive = True

    def strike(self) -> None:
        self._ended = threading.Event()
        self._cuts = self.proxy.cuts
        self._truncating = threading.Thread(target=self._truncate)
        self._truncating.start()

    def _truncate(self) -> None:
        size = 0
        # A TLS handshake, both ends of which run in this process, must find the time to succeed between two cuts.
        every = 0.3 if self.stage.transport == "tls" else 0.1
        while not self._ended.wait(every):
            size = (size + 7) % 300
            self.proxy.cut_after_reply_bytes = size + 1

    def heal(self) -> None:
        self._ended.set()
        self._truncating.join()
        self.proxy.heal()
        self.numbers["cuts"] = self.proxy.cuts - self._cuts
        assert self.numbers["cuts"] > 1, "hardly a reply was cut off"


NETWORK_FAULTS = [
    Refused, Unreachable, BlackHole, SilentMidReply, HalfOpen, NameUnknown, NameServerSilent, AddressChanged, Garbage,
    OneByteASecond, SlowNetwork, SingleBytes, Truncated,
]  # fmt: skip
