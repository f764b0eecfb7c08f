"""From documentation on this machine to trained models and a report, in one command.

    python -m experiments.quickstart

`__main__` runs the `stages` with their `configs`; `baselines` are what the models have
to beat; `plots` and `report` show the results.
"""
