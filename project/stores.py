"""What the demo keeps in Redis: one small class for each kind of data."""

from __future__ import annotations

from typing import Any

from redispool_app.redis_base import RedisBase


class VisitCounter(RedisBase):
    """How often each page was visited."""

    prefix = "visits"

    async def visit(self, page: str) -> int:
        """Count a visit and return the new total."""
        return await self.incr(page)


class RateLimit(RedisBase):
    """So many requests per visitor in a fixed window; each window is one counter that expires by itself."""

    prefix = "rate-limit"
    default_ttl = 10
    allowed = 5

    async def admit(self, visitor: str) -> tuple[bool, int]:
        """Count a request; return whether it is within the limit, and the seconds until the window ends."""
        count = await self.incr(visitor)
        left = await self.ttl(visitor)
        return count <= self.allowed, max(1, round(left or 1))


class Leaderboard(RedisBase):
    """Players and their points, in a sorted set."""

    prefix = "leaderboard"

    def add_points(self, player: str, points: int) -> None:
        with self.manager.get_sync_connection() as client:
            client.zincrby(self.key("players", kind="z"), points, player)

    def top(self, count: int = 10) -> list[tuple[str, int]]:
        with self.manager.get_sync_connection() as client:
            rows: Any = client.zrange(self.key("players", kind="z"), 0, count - 1, desc=True, withscores=True)
        return [(player.decode() if isinstance(player, bytes) else player, int(score)) for player, score in rows]


visit_counter = VisitCounter()
rate_limit = RateLimit()
leaderboard = Leaderboard()
