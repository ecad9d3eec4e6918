"""``RedisBase``, the base class of a project's own stores, and its operations."""
