"""``alignray lte`` as a Ray job.

``ray job submit --working-dir . -- python jobs/lte.py CONFIG [options of alignray lte]``
"""

import sys

from alignray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "lte")
    main()
