"""``alignray edit-eval`` as a Ray job.

``ray job submit --working-dir . -- python jobs/edit-eval.py CONFIG [options of alignray edit-eval]``
"""

import sys

from alignray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "edit-eval")
    main()
