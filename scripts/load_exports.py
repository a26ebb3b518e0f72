"""Load every format of ``agl export`` with the library that it is for; prints a line for each.

Run it in an environment of its own, with whichever of these are installed:
``datasets`` (all JSON lines and Parquet), ``trl`` (its own checks of the conversational forms), ``harbor`` (ATIF),
``pyarrow`` (Parquet)::

    uv run --no-project --with datasets --with harbor python scripts/load_exports.py FOLDER

FOLDER holds ``triplets.jsonl messages.jsonl sft.jsonl dpo.jsonl trl.jsonl spans.parquet`` and ``atif/*.json``; what is
absent is skipped and said. Ends with 1 when a library refused a file.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

LINES = ("triplets", "messages", "sft", "dpo", "trl")
COLUMNS = {
    "triplets": {"prompt", "response", "reward"},
    "messages": {"messages"},
    "sft": {"messages"},
    "dpo": {"prompt", "chosen", "rejected"},
    "trl": {"prompt", "completion", "prompt_ids", "completion_ids", "logprobs", "reward"},
}


def with_datasets(folder: Path) -> list[str]:
    """Load the lines and the table as Hugging Face data sets."""
    datasets: Any = importlib.import_module("datasets")
    found: list[str] = []
    for name in LINES:
        path = folder / f"{name}.jsonl"
        if path.exists():
            loaded = datasets.Dataset.from_json(str(path), cache_dir=str(folder / "cache"))
            missing = COLUMNS[name] - set(loaded.column_names)
            if missing:
                msg = f"{name}: no column {sorted(missing)}"
                raise ValueError(msg)
            found.append(f"{name} {len(loaded)}")
    if (folder / "spans.parquet").exists():
        loaded = datasets.Dataset.from_parquet(str(folder / "spans.parquet"), cache_dir=str(folder / "cache"))
        found.append(f"parquet {len(loaded)}")
    return found


def with_trl(folder: Path) -> list[str]:
    """Let TRL say whether it takes the examples for conversations."""
    utilities: Any = importlib.import_module("trl.data_utils")
    found: list[str] = []
    for name in ("sft", "dpo", "trl"):
        path = folder / f"{name}.jsonl"
        if not path.exists():
            continue
        examples = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        if not all(utilities.is_conversational(example) for example in examples):
            msg = f"{name}: TRL sees no conversation"
            raise ValueError(msg)
        found.append(f"{name} {len(examples)}")
    return found


def with_harbor(folder: Path) -> list[str]:
    """Validate the trajectories with Harbor's models."""
    trajectory: Any = importlib.import_module("harbor.models.trajectories").Trajectory
    every = [
        trajectory.model_validate_json(path.read_text("utf-8")) for path in sorted((folder / "atif").glob("*.json"))
    ]
    return [f"atif {len(every)}"] if every else []


def with_pyarrow(folder: Path) -> list[str]:
    """Read the table."""
    parquet: Any = importlib.import_module("pyarrow.parquet")
    path = folder / "spans.parquet"
    return [f"parquet {parquet.read_table(path).num_rows}"] if path.exists() else []


LOADERS = {"datasets": with_datasets, "trl": with_trl, "harbor": with_harbor, "pyarrow": with_pyarrow}


def main() -> int:
    """Load what is in the folder."""
    if len(sys.argv) != 2:  # noqa: PLR2004 - the script and its argument
        print(__doc__)
        return 2
    failed = 0
    for name, load in LOADERS.items():
        try:
            importlib.import_module(name)
        except ImportError:
            print(f"{name:10} not installed")
            continue
        try:
            print(f"{name:10} {', '.join(load(Path(sys.argv[1]))) or 'nothing to load'}")
        except Exception as error:  # noqa: BLE001 - whatever a library raises is its answer
            print(f"{name:10} FAILED: {error}")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
