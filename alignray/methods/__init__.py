"""The papers, as pure functions on records."""
