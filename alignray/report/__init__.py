"""A finished or running run folder told to people: report.html and the dataset card. Reads files only; no ray, no torch."""
