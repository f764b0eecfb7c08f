"""Every fine-tuning task on real labels, in one command, resumable.

    python -m experiments.finetune_suite --workdir=runs/suite

`rows` has a function for each row of the table; `row` says what it is given and what it
gives. A row trains by `tuning` on `texts` from `weights`, stands beside `baselines`,
and has an interval by `estimates`; `report` shows them all.
"""
