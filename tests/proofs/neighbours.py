"""Every family of the hub: a text's logits and greedy tokens hang on no other text.

    python -m tests.proofs.neighbours [--only=t5]

Neither on other rows, nor on padding, nor on its place in a pack. The default tests
(tests/infer/test_neighbours.py) hold every kind of position and a few of the families;
this takes each golden, about ten minutes on two cores. Ends with code 1 where one
fails.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.infer.test_neighbours import check_family
from tests.parity import goldens


def main() -> int:
    """Checks each family; 1 where one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="families whose name holds this")
    only, failed = parser.parse_args().only, 0
    for path in sorted(goldens.FOLDER.glob("*.npz")):
        if only not in path.stem:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                check_family(path.stem, Path(folder))
            except AssertionError as e:
                failed += 1
                print(f"{path.stem}: FAILED: {e}")
            else:
                print(f"{path.stem}: as alone", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
