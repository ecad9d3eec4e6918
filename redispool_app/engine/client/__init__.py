"""The asyncio and the blocking client, and their pipelines."""
