"""``alignray bridge`` as a Ray job.

``ray job submit --working-dir . -- python jobs/bridge.py CONFIG [options of alignray bridge]``
"""

import sys

from alignray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "bridge")
    main()
