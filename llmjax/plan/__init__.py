"""Plans of a run on TPUs or GPUs, made by their compilers on a machine without any.

`compiler` compiles the step, `hlo` reads the compiled text, `cost` predicts its time,
`layouts` searches for layouts that fit or are faster; `report`, `compare` and `picture`
show the results with `tables`; `gate` checks many runs.
"""
