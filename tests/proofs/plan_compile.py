"""Every config that takes more than two minutes to compile, on the TPUs that it names.

    python -m tests.proofs.plan_compile [--only=llama3]

What `launch/plan.sh` only lowers, compiled; one after the other, as each takes minutes
and gigabytes. Needs the TPU compiler (`pip install -e '.[tpu]'`) and no TPU.
"""

import sys

from absl import app

from experiments import plan_gate


def main(argv: list[str]) -> None:
    del argv
    slow = [name for name in plan_gate.SLOW if plan_gate.ONLY.value in name]
    verdicts = [plan_gate.judge(name, compiled=True) for name in slow]
    print(plan_gate.report(verdicts))
    sys.exit(any(v.fault for v in verdicts))


if __name__ == "__main__":
    app.run(main)
