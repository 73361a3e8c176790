"""The benchmarks that the thesis reports, as pure functions on records."""
