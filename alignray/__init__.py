"""alignray: aligning language models on Ray (arXiv:2506.09329 as one distributed system)."""

__version__ = "0.1.0"
