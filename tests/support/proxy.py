"""The laboratory's proxy, under the name by which the tests of the engine know it."""

from tests.lab.proxy import Proxy

__all__ = ["Proxy"]
