"""``alignray lion`` as a Ray job.

``ray job submit --working-dir . -- python jobs/lion.py CONFIG [options of alignray lion]``
"""

import sys

from alignray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "lion")
    main()
