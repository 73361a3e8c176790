"""``alignray dedup`` as a Ray job.

``ray job submit --working-dir . -- python jobs/dedup.py CONFIG [options of alignray dedup]``
"""

import sys

from alignray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "dedup")
    main()
