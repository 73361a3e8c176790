"""``alignray train`` as a Ray job.

``ray job submit --working-dir . -- python jobs/train.py CONFIG [options of alignray train]``
"""

import sys

from alignray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
