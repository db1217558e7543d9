"""From results to what can be said of them: pure statistics on arrays, and tables made of result frames by them.

Nothing here imports torch. ``read`` a folder, then ``ranking``, ``survival_curves``, ``throughput``, ...
"""

from harness.analysis.arm_times import Arm, TimedArms, timed_arms, timed_arms_of_targets
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
    ArmLabels,
    TimeUnit,
    arm_columns,
    arm_labels,
    budget_of,
    label_arms,
    read,
    targets_of,
    times_to_targets,
    within,
)
from harness.analysis.intervals import Estimate, Interval, wilson
from harness.analysis.standings import Ranking, rank, ranking
from harness.analysis.survival import Curve, kaplan_meier, logrank, median_time, rmst, rmst_difference
from harness.analysis.tables import (
    Completeness,
    completeness,
    curve_bands,
    profiles,
    profiles_of,
    speed_columns,
    splitting,
    survival_curves,
    survival_of,
    throughput,
)
from harness.analysis.verdicts import VERDICTS, Tone, Verdict, said
from harness.results import Frames

__all__ = [
    "VERDICTS",
    "Arm",
    "ArmLabels",
    "Completeness",
    "Curve",
    "Estimate",
    "Frames",
    "Improvement",
    "Interval",
    "Paired",
    "Ranking",
    "TimeUnit",
    "TimedArms",
    "Tone",
    "Verdict",
    "arm_columns",
    "arm_labels",
    "budget_of",
    "can_be_significant",
    "can_be_significant_paired",
    "completeness",
    "curve_bands",
    "holm",
    "kaplan_meier",
    "label_arms",
    "logrank",
    "median_time",
    "paired",
    "performance_profile",
    "probability_of_improvement",
    "profiles",
    "profiles_of",
    "rank",
    "ranking",
    "read",
    "rmst",
    "rmst_difference",
    "said",
    "smallest_p",
    "smallest_p_paired",
    "speed_columns",
    "splitting",
    "survival_curves",
    "survival_of",
    "targets_of",
    "throughput",
    "timed_arms",
    "timed_arms_of_targets",
    "times_to_targets",
    "wilson",
    "within",
]
