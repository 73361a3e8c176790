"""``alignray webr`` as a Ray job.

``ray job submit --working-dir . -- python jobs/webr.py CONFIG [options of alignray webr]``
"""

import sys

from alignray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "webr")
    main()
