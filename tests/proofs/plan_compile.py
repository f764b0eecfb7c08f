"""Compiles every config that takes more than two minutes, for the TPUs that it names.

    python -m tests.proofs.plan_compile [--only=llama3]

`launch/plan.sh` only lowers these. They run one after the other, since each takes
minutes and gigabytes. Needs the TPU compiler (`pip install -e '.[tpu]'`) and no TPU.
"""

import sys

from absl import app

from experiments import plan_gate
from llmjax.plan import gate


def main(argv: list[str]) -> None:
    del argv
    slow = [name for name in plan_gate.SLOW if plan_gate.ONLY.value in name]
    verdicts = []
    for name in slow:
        run = plan_gate.load(name)
        topology = run.layout.plan_topology
        assert topology is not None, name
        verdicts.append(gate.check(name, run, topology, compiled=True))
    print(gate.report(verdicts))
    sys.exit(any(v.fault for v in verdicts))


if __name__ == "__main__":
    app.run(main)
