"""``alignray followbench`` as a Ray job.

``ray job submit --working-dir . -- python jobs/followbench.py CONFIG [options of alignray followbench]``
"""

import sys

from alignray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "followbench")
    main()
