"""The status page of the admin: its data, its event stream, its tables and its actions."""
