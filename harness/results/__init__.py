"""All there is to know of a results folder: its tables, how they are written, read, checked and merged.

``python -m harness.results`` is its command. Other packages import from here only.
"""

from harness.results.arrivals import Arrivals
from harness.results.checking import Checked, check, problems_in
from harness.results.column import Column
from harness.results.columns import (
    BULK,
    CHOICES,
    COUNTED,
    ENVIRONMENT,
    EXECUTION,
    HARDWARE,
    MISSING,
    SPEED,
    WORK,
    arm_columns,
    arm_names,
    is_missing,
    label_of,
    text_of,
    varying,
)
from harness.results.command import main
from harness.results.deaths import record_death, withdraw
from harness.results.locking import UnlockableError, locked
from harness.results.merging import Compacted, Merged, UnsoundError, compact, copy_into
from harness.results.parts import Publisher, enough_for_a_part
from harness.results.places import Place, RemotePlace, place_of
from harness.results.plans import StoredPlan, StoredPlans, copy_plans, plans, remove_plan, write_plan
from harness.results.progress import Progress, Progresses, named, progress, tally
from harness.results.publishing import published
from harness.results.reading import (
    Content,
    Frames,
    Loaded,
    load,
    load_quietly,
    passed_over_line,
    read,
    require_results,
    to_frame,
)
from harness.results.recovery import (
    Recovered,
    alive,
    discard,
    has_living,
    missing_folders,
    prepare,
    recover,
)
from harness.results.schema import COLUMNS, SCHEMA_VERSION, STATUSES, TABLES, arrow_schema
from harness.results.table_files import files
from harness.results.writing import Running, arrow_rows, new_trial_id, write_part, write_table

__all__ = [
    "BULK",
    "CHOICES",
    "COLUMNS",
    "COUNTED",
    "ENVIRONMENT",
    "EXECUTION",
    "HARDWARE",
    "MISSING",
    "SCHEMA_VERSION",
    "SPEED",
    "STATUSES",
    "TABLES",
    "WORK",
    "Arrivals",
    "Checked",
    "Column",
    "Compacted",
    "Content",
    "Frames",
    "Loaded",
    "Merged",
    "Place",
    "Progress",
    "Progresses",
    "Publisher",
    "Recovered",
    "RemotePlace",
    "Running",
    "StoredPlan",
    "StoredPlans",
    "UnlockableError",
    "UnsoundError",
    "alive",
    "arm_columns",
    "arm_names",
    "arrow_rows",
    "arrow_schema",
    "check",
    "compact",
    "copy_into",
    "copy_plans",
    "discard",
    "enough_for_a_part",
    "files",
    "has_living",
    "is_missing",
    "label_of",
    "load",
    "load_quietly",
    "locked",
    "main",
    "missing_folders",
    "named",
    "new_trial_id",
    "passed_over_line",
    "place_of",
    "plans",
    "prepare",
    "problems_in",
    "progress",
    "published",
    "read",
    "record_death",
    "recover",
    "remove_plan",
    "require_results",
    "tally",
    "text_of",
    "to_frame",
    "varying",
    "withdraw",
    "write_part",
    "write_plan",
    "write_table",
]
