"""From results to what can be said of them: pure statistics on arrays, and tables made of result frames by them.

Nothing here imports torch. ``read`` a folder, then ``ranking``, ``survival_curves``, ``throughput``, ...
"""

from harness.analysis.comparison import (
    Improvement,
    Paired,
    can_be_significant,
    can_be_significant_paired,
    holm,
    paired,
    performance_profile,
    probability_of_improvement,
    smallest_p,
    smallest_p_paired,
)
from harness.analysis.grouping import (
    Arm,
    arm_columns,
    arm_labels,
    arms,
    budget_of,
    read,
    targets_of,
    times_to_targets,
)
from harness.analysis.intervals import Estimate, Interval, wilson
from harness.analysis.standings import Ranking, ranking
from harness.analysis.survival import Curve, kaplan_meier, logrank, median_time, rmst, rmst_difference
from harness.analysis.tables import (
    Completeness,
    completeness,
    curve_bands,
    profiles,
    speed_columns,
    splitting,
    survival_curves,
    throughput,
)
from harness.results import Frames

__all__ = [
    "Arm",
    "Completeness",
    "Curve",
    "Estimate",
    "Frames",
    "Improvement",
    "Interval",
    "Paired",
    "Ranking",
    "arm_columns",
    "arm_labels",
    "arms",
    "budget_of",
    "can_be_significant",
    "can_be_significant_paired",
    "completeness",
    "curve_bands",
    "holm",
    "kaplan_meier",
    "logrank",
    "median_time",
    "paired",
    "performance_profile",
    "probability_of_improvement",
    "profiles",
    "ranking",
    "read",
    "rmst",
    "rmst_difference",
    "smallest_p",
    "smallest_p_paired",
    "speed_columns",
    "splitting",
    "survival_curves",
    "targets_of",
    "throughput",
    "times_to_targets",
    "wilson",
]
