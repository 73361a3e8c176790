"""Near-duplicate mathematics: ids and texts in, kept rows and clusters out. No Ray, no files, no records.

Modules are imported one by one (``alignray.dedup.config`` stays cheap: it loads no compiler).
"""
