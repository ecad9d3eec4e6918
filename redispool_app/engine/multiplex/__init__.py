"""One connection that many callers share."""
