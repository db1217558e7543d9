"""Base against candidate: did anything get worse, and how sure is that?

``python -m harness.compare BASE CANDIDATE`` pairs the trials of two results folders by config and seed (``trial_key``
and ``device``) and compares, for each arm (a config without its seed), the steps to every target, the final test loss
and accuracy, and the throughput. Torch is never imported.

What is compared. Every pair gives one difference. Steps to a target are restricted to the budget (never: the whole
budget), so that their mean is the restricted mean; they and the loss are set against the mean of BASE, accuracies are
subtracted, throughputs give the log of their ratio. A diverged trial never reaches what it has not reached, has the
accuracy of chance and no loss. Repetitions of a key are averaged first; of throughput the median is taken.

The rule. ``worse`` is the mean difference with its sign turned so that positive is worse, ``threshold`` what matters,
``p`` that of a sign-flip permutation test, adjusted by Holm over all arms and measures, ``worst`` the worse end of the
interval at level 1 - alpha, and ``detectable`` the smallest true difference that the test would separate from zero
with 80% probability, given the noise that was seen.

* regression: ``worse > threshold`` and ``p <= alpha``. Neither is enough alone.
* improvement: the same in the other direction. It is reported and does not fail.
* ok: enough pairs to separate anything at all, and either ``worst <= threshold`` (a regression is excluded) or
  ``worse <= threshold`` and ``detectable <= threshold`` (a regression of that size would have been seen). The second
  way is the weaker one: it passes a true regression of ``threshold + t x standard error`` (t: the 80% point of
  Student's distribution) with at most 20% probability, where the first passes any above the threshold with about
  alpha / 2.
* inconclusive: everything else. Not shown to be a regression, nor shown to be none. So is what a candidate has no
  value of where its base has one: the loss of a run that diverged is not judged by those that did not.
* not judged: kinds that nobody asked for, throughput across machines or on machines that are not known, a target that
  no run of either side reaches or that some trial did not have. If nothing is judged the whole is inconclusive.

The machine. Speeds are judged between equal names of hardware, and a name must be one that tells machines apart
(:func:`harness.processor.identifies`). Where there is none, or only that of an architecture or of a hypervisor's
stand-in, throughput is not judged, and the whole is inconclusive unless convergence alone was asked for.

What has no noise. Where base and candidate ended with the same bits in every pair, there is nothing to test: ok. Where
an arm's weights do not depend on the seed, its difference is exact (n = 1 in effect) and the threshold alone decides.
Where a program that gives the same bits in every repetition gives others now, that is a change of the program and no
noise, and is said so; whether it is worse over other seeds is still judged by the rule above.

What the test cannot know. Pairs of one night share the state of the machine: if it was slower that night, it was so for
every seed, and no number of seeds tells that from a slower program. The level holds for noise that differs from pair
to pair; a threshold for throughput must come from ``--calibrate`` over runs of several nights, whose drift it covers.

A comparison without any difference cannot reject and is not counted by Holm, which costs no level: the test conditions
on the sizes of the differences.

Exit codes: 0 ok, 1 regression (or a trial that ended in base and fails now), 3 inconclusive, 2 error (different
hardware, missing arms, files of another schema version, an unreadable folder).
"""

from harness.compare.gate import compare_trials
from harness.compare.judgement import VERDICTS, Comparison, GateResult, Rules, Verdict

__all__ = ["VERDICTS", "Comparison", "GateResult", "Rules", "Verdict", "compare_trials"]
