"""A run on one page: runs/NAME/report.html, which opens anywhere, without a network or an account.

`reading.py` takes from the run folder what the page shows, within bounds that no length of a run exceeds; `page.py`
puts it into one file together with its style, its script and Plotly. Nothing here imports torch: the page is written
anew while a run goes on, by a process of its own.
"""
