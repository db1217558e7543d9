"""The three tables: every column, its type, its meaning and its role.

A new column, a changed meaning or a changed clock raises ``SCHEMA_VERSION``. A new column says in ``since`` which
version brought it and may be null, so that files of versions from ``OLDEST_VERSION`` on are still read. What follows
from the roles (which columns are choices, hardware, conditions of speed) is derived in
:mod:`harness.results.columns`.
"""

import json
from functools import cache

import pyarrow as pa

from harness.results.column import FLAG as _FLAG
from harness.results.column import ID as _ID
from harness.results.column import OLDEST_VERSION, Column
from harness.results.column import REAL as _REAL
from harness.results.column import TEXT as _TEXT
from harness.results.column import WHOLE as _WHOLE
from harness.results.column import result as _result
from harness.results.trial_columns import STATUSES, TRIALS

__all__ = ["COLUMNS", "OLDEST_VERSION", "SCHEMA_VERSION", "STATUSES", "TABLES", "arrow_schema", "completed"]

SCHEMA_VERSION = 6
TABLES = ("trials", "curves", "layers")

_CURVES = [
    Column("trial_id", _TEXT, _ID, "identity", required=True),
    Column("step", _WHOLE, "updates made", "identity", required=True),
    _result("train_time_s", _REAL, "training seconds so far", required=True),
    _result(
        "train_loss", _REAL, "mean cross entropy in nats on the fixed batch, or on the first 1,000 training images"
    ),
    _result("train_accuracy", _REAL, "accuracy on the same images"),
    _result("test_loss", _REAL, "mean cross entropy in nats on all test images"),
    _result("test_accuracy", _REAL, "accuracy on all test images"),
    _result("validation_loss", _REAL, "mean cross entropy in nats on the images held out; null: none", since=5),
    _result("validation_accuracy", _REAL, "accuracy on the images held out; null: none", since=5),
    _result("lr", _REAL, "learning rate of the next update; at the last step, of the last one", since=5),
    _result(
        "batch_loss",
        _REAL,
        "mean loss of the training batches since the last row, before their updates, in training mode; null: step 0",
        since=5,
    ),
    _result("batch_accuracy", _REAL, "accuracy on the same batches, from the same pass", since=5),
]
_LAYERS = [
    Column("trial_id", _TEXT, _ID, "identity", required=True),
    Column("step", _WHOLE, "updates made", "identity", required=True),
    Column("parameter", _TEXT, "e.g. conv2.weight", "identity", required=True),
    _result("weight_norm", _REAL, "Euclidean norm of the tensor"),
    _result("gradient_norm", _REAL, "Euclidean norm of the gradient of the mean loss on the probe images"),
    _result("update_norm", _REAL, "Euclidean norm of current minus initial value"),
    _result("update_max_abs", _REAL, "largest absolute entry of current minus initial value"),
    _result("bit_equal", _FLAG, "whether every bit is as it was initially", required=True),
    _result("gradient_rank", _WHOLE, "numerical rank of a weight's gradient, flattened to (units, inputs)"),
    _result("update_rank", _WHOLE, "the same of current minus initial value"),
    _result("distinct_rows", _WHOLE, "how many units of the layer have weights that differ"),
    _result("distinct_gradient_rows", _WHOLE, "how many have gradients that differ"),
    _result("preactivation_mean", _REAL, "mean of the layer's output before the activation, on the probe images"),
    _result("preactivation_std", _REAL, "its standard deviation"),
    _result("output_moment", _REAL, "its second moment (mean square)"),
    _result("output_moment_theory", _REAL, "expected for random signs of the weights, given the layer's input"),
    _result("gradient_gain", _REAL, "squared norm of the loss's gradient at the layer's input over that at its output"),
    _result("gradient_gain_theory", _REAL, "expected for random signs of the weights"),
    _result(
        "dead_share",
        _REAL,
        "share of units where the activation's derivative is 0 on every probe image (relu: never positive); "
        "null: none follows",
    ),
    _result("movement", _TEXT, "moved; no gradient; has gradient, not moved; not finite", required=True),
]
COLUMNS: dict[str, list[Column]] = {"trials": TRIALS, "curves": _CURVES, "layers": _LAYERS}
"""Table -> its columns."""


def arrow_schema(table: str, version: int | None = None) -> pa.Schema:
    """Return the Arrow schema of a table in a version of the schema; None: the present one.

    Its metadata, which stands in each file's footer, holds the version and the description of each column.
    """
    return _arrow_schema(table, SCHEMA_VERSION if version is None else version)


@cache
def _arrow_schema(table: str, version: int) -> pa.Schema:
    columns = [column for column in COLUMNS[table] if column.since <= version]
    fields = [pa.field(column.name, column.type, nullable=not column.required) for column in columns]
    metadata = {
        "initbench.schema_version": str(version),
        "initbench.table": table,
        "initbench.columns": json.dumps({column.name: column.description for column in columns}),
    }
    return pa.schema(fields, metadata=metadata)


def completed(content: pa.Table, table: str, wanted: pa.Schema | None = None) -> pa.Table:
    """Return rows of an earlier version in later columns; those that the version lacked are as they were then or null.

    Args:
        content: the rows.
        table: their table.
        wanted: the columns that the result has; None: all of the present version.
    """
    wanted = arrow_schema(table) if wanted is None else wanted
    if content.schema.equals(wanted):
        return content.replace_schema_metadata(wanted.metadata)
    before = {column.name: column.before for column in COLUMNS[table]}
    there = set(content.schema.names)
    arrays = [
        content[field.name]
        if field.name in there
        else pa.repeat(pa.scalar(before[field.name], field.type), len(content))
        for field in wanted
    ]
    return pa.Table.from_arrays(arrays, schema=wanted)
