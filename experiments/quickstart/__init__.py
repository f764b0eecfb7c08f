"""The main job, from documentation on this machine to a report.

    python -m experiments.quickstart

`__main__` runs the stages; `baselines` has what their results are judged by, `plots`
and `report` show them.
"""
