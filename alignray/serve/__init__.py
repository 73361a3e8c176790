"""The top floor: servers that others call."""
