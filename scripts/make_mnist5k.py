"""Make harness/mnist5k.parquet: the first 5,000 training and 1,000 test images of MNIST, as they are.

Usage: python scripts/make_mnist5k.py [ROOT]     (ROOT/MNIST/raw holds the files, or gets them; default: data)
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness import data
from harness.arguments import one_line_errors, script_parser
from harness.config import DataConfig
from harness.errors import DataError, UsageError

_TARGET = Path(data.__file__).with_name("mnist5k.parquet")
_ATTRIBUTION = (
    "The first 5,000 training and 1,000 test images, unchanged, of the MNIST database of handwritten digits "
    "by Yann LeCun, Corinna Cortes and Christopher J.C. Burges (1998), derived from NIST Special Databases 1 and 3. "
    "Licence of the data: Creative Commons Attribution-Share Alike 3.0."
)


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file and say what it is; returns the exit code."""
    parser = script_parser("make_mnist5k", __doc__)
    parser.add_argument("root", nargs="?", default="data", metavar="ROOT", help="holds MNIST/raw (default: data)")
    root = parser.parse_args(arguments).root
    try:
        digits = data.load(DataConfig(name="mnist", root=root))
    except DataError as error:
        raise UsageError(str(error)) from error
    parts = [("train", digits.train_images[:5000], digits.train_labels[:5000])]
    parts += [("test", digits.test_images[:1000], digits.test_labels[:1000])]
    columns: dict[str, list[object]] = {"split": [], "label": [], "image": []}
    for split, images, labels in parts:
        columns["split"] += [split] * len(images)
        columns["label"] += labels.tolist()
        columns["image"] += [image.numpy().tobytes() for image in images]
    fields = [("split", pa.string()), ("label", pa.uint8()), ("image", pa.binary(28 * 28))]
    schema = pa.schema(fields, metadata={"attribution": _ATTRIBUTION, "image": "28 x 28 uint8, row by row"})
    pq.write_table(pa.table(columns, schema=schema), _TARGET, compression="zstd", compression_level=19)
    print(f"{_TARGET.name}: {len(columns['label']):,} images, {_TARGET.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
