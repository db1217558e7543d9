"""One page that says what a results folder shows: ``python -m harness.report [DIR]``.

The page is one HTML file that asks nothing of any network; ``--format md`` and ``--format json`` give the same numbers
as text. Reading, statistics and wording happen here, drawing in the page's own script.
"""
