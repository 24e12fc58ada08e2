"""Out-of-distribution detection: `config.OodConfig` says what, `run.run` does it, `report` makes tables of the file that it
returns.

In the order the data flows: generated (sets), sets, scores, graph_file, interval and bounds (what is guaranteed), model (the
engines), store (the file), certified and linf (the kinds; attacks and torch_graph need torch), run, metrics, report, figures;
accuracy stands alone.
"""
