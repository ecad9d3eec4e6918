"""The failure laboratory: real servers, a bad network, drivers that check every reply, and verdicts about them."""
