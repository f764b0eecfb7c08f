"""Every kind of model through pipelines on eight devices, against itself without one.

    python -m tests.proofs.pipeline [--quick] [MODEL ...]

Prints, per model and layout, the largest difference of the loss and of any gradient,
relative to the leaf's largest value, and beside it that of a mesh without a pipeline,
which is rounding; ends with 1 where one exceeds 1e-5 and three times the other. --quick
takes two models, each through two stages, through four, and through four that are
computed again.
"""

import functools
import os
import sys
import time
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# threads of XLA: eight devices that wait in two collectives at once must all have one
os.environ.setdefault("NPROC", "32")

import jax

from llmjax.config import Pipeline
from llmjax.parallel.pipeline import bubble_share
from tests.parallel import pipelined

LAYOUTS: list[dict[str, Any]] = [
    {"pipeline": Pipeline(P, R, M), **rest}
    for P, rests in (
        (2, ({"data": 4}, {"fsdp": 4}, {"fsdp": 2, "tensor": 2}, {"expert": 4})),
        (4, ({"data": 2}, {"fsdp": 2}, {"tensor": 2}, {"sequence": 2})),
    )
    for i, rest in enumerate(rests)
    for R in (1, 2)
    for M in ((P, 2 * P) if i == 0 else (2 * P if R == 1 else P,))
]
LAYOUTS += [
    {"pipeline": Pipeline(P, R, 2 * P, recompute=True), **rest}
    for P, rest in ((2, {"fsdp": 2, "tensor": 2}), (4, {"data": 2}))
    for R in (1, 2)
]
QUICK = ("decoder", "encoder-decoder mixture")


@functools.cache
def rounding(name: str, layers: int) -> float:
    """The error of a mesh that cuts rows alone."""
    program, arguments = pipelined.compiled(name, layers, data=8)
    return pipelined.error(program(*arguments), pipelined.plain(name, layers))


def main() -> int:
    jax.config.update("jax_disable_most_optimizations", True)
    failed = 0
    quick = "--quick" in sys.argv
    names = [word for word in sys.argv[1:] if word != "--quick"]
    layouts = [LAYOUTS[1], LAYOUTS[-5], LAYOUTS[-1]] if quick else LAYOUTS
    for name in names or (QUICK if quick else pipelined.MODELS):
        for layout in layouts:
            layout = {"data": 1} | layout
            stages = layout["pipeline"]
            P, R, M = stages.stages, stages.rounds, stages.microbatches
            layers = P * R
            start = time.time()
            program, arguments = pipelined.compiled(name, layers, **layout)
            worst = pipelined.error(program(*arguments), pipelined.plain(name, layers))
            other = rounding(name, layers)
            failed += worst > max(1e-5, 3 * other)
            others = {k: v for k, v in layout.items() if k != "pipeline" and v > 1}
            again = "again" if stages.recompute else ""
            seconds = time.time() - start
            print(
                f"{name:24} P={P} R={R} M={M} {others!s:26} {again:5} "
                f"idle {bubble_share(P, M, R):.3f}  "
                f"error {worst:.1e} ({other:.1e})  {seconds:.0f} s",
                flush=True,
            )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
