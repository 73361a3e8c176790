"""Every ``import ray``: sessions, Ray Data stages, the chain runner."""
