"""text-dedup's MinHash command on a JSONL file, in one process, its check of false positives switched on.

Without that check version 0.4.1 drops all rows of a cluster instead of all but one: the cluster ids that polars-grouper
hands back are no row numbers, and only the check replaces them. num_proc = 0 keeps datasets from starting processes.

``bench/dedup_text.py`` runs this with the python of text-dedup's own venv: settings come as one JSON argument, the result
leaves as the last line of standard output.
"""

import json
import resource
import sys
from importlib.metadata import version
from pathlib import Path

from datasets import load_from_disk
from text_dedup.config.base import load_config_from_toml
from text_dedup.minhash import main as run_minhash

CONFIG = """
[input]
input_type = "local_files"
file_type = "json"
[input.read_arguments]
path = "json"
data_files = "{path}"
split = "train"
cache_dir = "{folder}/cache"
[algorithm]
algorithm_name = "minhash"
text_column = "text"
num_proc = 0
num_perm = {num_perm}
ngram_size = {n}
threshold = {threshold}
bands = {bands}
rows = {rows}
min_length = 1
check_false_positive = true
[output]
output_dir = "{folder}/kept"
[debug]
"""


def cpu_seconds() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def main() -> None:
    settings = json.loads(sys.argv[1])
    folder = Path(settings["folder"])
    written = folder / "config.toml"
    written.write_text(CONFIG.format(**settings))
    config = load_config_from_toml(written)

    started = cpu_seconds()
    run_minhash(config)
    seconds = cpu_seconds() - started
    kept = [int(row) for row in load_from_disk(str(folder / "kept"))["id"]]
    print()
    print(json.dumps({"seconds": seconds, "kept": kept, "version": version("text-dedup")}))


if __name__ == "__main__":
    main()
