"""``alignray construct`` as a Ray job.

``ray job submit --working-dir . -- python jobs/construct.py CONFIG [options of alignray construct]``
"""

import sys

from alignray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "construct")
    main()
