"""``alignray evaluate`` as a Ray job.

``ray job submit --working-dir . -- python jobs/evaluate.py CONFIG [options of alignray evaluate]``
"""

import sys

from alignray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    main()
