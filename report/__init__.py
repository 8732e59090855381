"""Pages about runs, written from their run folders: runs/NAME/report.html opens without a network or an account.

`run_folder.py` reads a run folder, `metrics.py` says what metrics are called and mean, `page_data.py` takes what the
page shows, within bounds that hold for a run of any length, and `page.py` writes it into one file with style, scripts
and Plotly. `panels.py` and `pictures.py` give the same to W&B. Nothing here imports torch or `train`: a process of its
own writes the page while a run goes on.
"""
