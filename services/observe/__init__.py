"""What a run shows of itself.

    history.py       one JSON line per update: the ground everything below reads
    events.py        events.jsonl: what happened beside the updates
    series.py        columns out of the history: a figure over the updates, by step
    summary.py       summary.json: figures before and after, with 95 % intervals
    strips.py        pictures: the same prompts and seeds, one column per denoising step
    scalars.py       TensorBoard events
    style.py         matplotlib figures as inline SVG in the page's own colours
    plots.py         the report's charts
    headline.py      the report's first figures: before and after, drawn
    sections.py      the report's sections, from columns to HTML
    pictures.py      image strips, under a slider over the updates
    timeline.py      the journal, drawn and as a table
    page.py          the page itself: report.html, report.css and report.js are its template
    comparison.py    several runs on one page
    report.py        report.html, one self-contained file
    model_card.py    adapter/README.md
    text.py          numbers in words
    journeys.py      groups.jsonl: the way of every group through the stages
    log.py           the output of a run as JSON lines
    trace.py         a run on a time line, for Perfetto
    progress.py      the live view of a terminal
    workers.py       what the workers do, as their heartbeats tell
    metric_table.py  every Prometheus metric, in one table
    metric_cells.py  what the metrics are read from, as samples
    metrics.py       the collector behind the table
    endpoint.py      its HTTP endpoint, and how Prometheus finds it

Nothing here steers a run: the other rooms of the shell call in, and nothing is imported from them.
"""
