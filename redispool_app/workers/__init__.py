"""Every worker, seen from each: processes publish what their pools do, read what the others say, and obey orders."""
