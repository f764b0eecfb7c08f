"""The formats of methods whose files are more than their weights by other names."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from llmjax.config import OFT, AdaLoRA, DeLoRA, LoKr, MiSS, PiSSA, SHiRA, VeRA
from llmjax.hub.adapters.format import PREFIX, Adapter, Format, Source, Weights


class AdaLoRAFormat(Format):
    """Entries that were cut are not written; `rank_pattern` says which."""

    def written(
        self, peft: AdaLoRA, adapters: list[Adapter]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        kept = {a.size.path: a.weights["e"] != 0 for a in adapters}
        begun = any(mask.any() for mask in kept.values())
        cut = begun and not all(mask.all() for mask in kept.values())
        if cut:
            adapters = [_of_kept(a, kept[a.size.path]) for a in adapters]
        tensors, fields = super().written(peft, adapters)
        end = self.suffix("e")
        pattern = {f"{path}.{end}": mask.tolist() for path, mask in kept.items()}
        # peft reads no file without it, and then has no use for it
        steps = peft.initial_steps + peft.final_steps + 1
        return tensors, fields | {
            "rank_pattern": pattern if cut else None,
            "total_step": steps,
        }

    def theirs(self, adapter: Adapter) -> Weights:
        return adapter.weights | {"e": adapter.weights["e"][:, None]}

    def read(self, peft: AdaLoRA, adapter: Adapter, source: Source) -> Weights:
        found = super().read(peft, adapter, source)
        if set(found) != set(self.tensors):
            return found
        found["e"] = found["e"].reshape(-1)
        pattern = (source.fields.get("rank_pattern") or {}).get(
            f"{adapter.size.path}.{self.suffix('e')}"
        )
        if pattern is None:
            return found
        places = np.flatnonzero(pattern)
        shapes = [found["a"].shape[1], len(found["e"]), len(found["b"])]
        if len(pattern) != peft.rank or shapes != [len(places)] * 3:
            return found  # of a shape that the reader refuses
        a = np.zeros((len(found["a"]), peft.rank), np.float32)
        e, b = np.zeros(peft.rank), np.zeros((peft.rank, found["b"].shape[1]))
        a[:, places], e[places], b[places] = found["a"], found["e"], found["b"]
        return {"a": a, "e": e, "b": b}


def _of_kept(adapter: Adapter, kept: np.ndarray) -> Adapter:
    w = adapter.weights
    weights = {"a": w["a"][:, kept], "e": w["e"][kept], "b": w["b"][kept]}
    return dataclasses.replace(adapter, weights=weights)


class VeRAFormat(Format):
    """A and B are written once, for all matrices."""

    def written(
        self, peft: VeRA, adapters: list[Adapter]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        a = max((x.weights["a"] for x in adapters), key=len)
        b = max((x.weights["b"] for x in adapters), key=lambda b: b.shape[1])
        scaled = [self._scaled(adapter, a, b) for adapter in adapters]
        tensors, fields = super().written(peft, scaled)
        factors = {"base_model.vera_A": a.T, "base_model.vera_B": b.T}
        return tensors | factors, fields

    def _scaled(self, adapter: Adapter, a: np.ndarray, b: np.ndarray) -> Adapter:
        """An adapter of the shared factors: ours differ by a number."""
        w, (inputs, outputs, path) = adapter.weights, adapter.size
        own = w["a"], w["b"]
        shared = a[:inputs], b[:, :outputs]
        ratios = [
            np.vdot(x, y) / np.vdot(y, y) for x, y in zip(own, shared, strict=True)
        ]
        for x, y, ratio in zip(own, shared, ratios, strict=True):
            if not np.allclose(x, ratio * y, rtol=1e-4, atol=1e-6):
                raise ValueError(
                    f"peft's format has one pair of random factors for all of VeRA's "
                    f"matrices, and those of {path} are others; merge the adapters, by "
                    "leaving --adapters out"
                )
        inner = w["inner"] * ratios[0] * ratios[1]
        weights = {"inner": inner, "outer": w["outer"]}
        return dataclasses.replace(adapter, weights=weights)

    def read(self, peft: VeRA, adapter: Adapter, source: Source) -> Weights:
        found = super().read(peft, adapter, source)
        if not found:
            return {}
        inputs, outputs, _ = adapter.size
        a, b = source.tensor("base_model.vera_A"), source.tensor("base_model.vera_B")
        return found | {"a": a.T[:inputs], "b": b.T[:, :outputs]}


class SHiRAFormat(Format):
    """Places are pairs of an output and an input."""

    def theirs(self, adapter: Adapter) -> Weights:
        places = np.divmod(adapter.weights["places"], adapter.size.outputs)
        return adapter.weights | {"places": np.stack(places[::-1]).astype(np.int32)}

    def read(self, peft: SHiRA, adapter: Adapter, source: Source) -> Weights:
        found = super().read(peft, adapter, source)
        if set(found) != set(self.tensors):
            return found
        outputs, inputs = found["places"].astype(np.int64)
        size = adapter.size
        flat = inputs * size.outputs + outputs
        order = np.argsort(flat)
        if len(np.unique(flat)) < len(flat) or not (
            inputs.min() >= 0 and inputs.max() < size.inputs
            and outputs.min() >= 0 and outputs.max() < size.outputs
        ):  # fmt: skip
            raise ValueError(
                f"the places of {size.path} are not different entries of a matrix of "
                f"{size.inputs} inputs and {size.outputs} outputs; give the base that "
                "the adapters were trained on"
            )
        values = found["values"][order]
        return {"values": values, "places": flat[order].astype(np.int32)}


class DeLoRAFormat(Format):
    """The lengths of the base's rows are written too, and checked."""

    NORM = "delora_w_norm"

    def written(
        self, peft: DeLoRA, adapters: list[Adapter]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        tensors, fields = super().written(peft, adapters)
        lengths = {
            f"{PREFIX}{adapter.size.path}.{self.NORM}": self._lengths(adapter)
            for adapter in adapters
        }
        return tensors | lengths, fields

    def _lengths(self, adapter: Adapter) -> np.ndarray:
        return np.linalg.norm(adapter.kernel().astype(np.float32), axis=1)

    def read(self, peft: DeLoRA, adapter: Adapter, source: Source) -> Weights:
        found = super().read(peft, adapter, source)
        lengths = source.take(adapter.size.path, self.NORM)
        if found and lengths is not None:
            own = self._lengths(adapter)
            if lengths.shape != own.shape or not np.allclose(lengths, own, rtol=1e-2):
                raise ValueError(
                    f"{adapter.size.path}.{self.NORM} has lengths of rows that this "
                    "base's matrix has not; give the base that the adapters were "
                    "trained on"
                )
        return found


class OFTFormat(Format):
    """The series' terms stand in two fields."""

    def settings(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        series = fields["use_cayley_neumann"]
        terms = fields["num_cayley_neumann_terms"] if series else None
        return super().settings(fields) | {"terms": terms}

    def written(
        self, peft: OFT, adapters: list[Adapter]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        tensors, fields = super().written(peft, adapters)
        return tensors, fields | {
            "use_cayley_neumann": peft.terms is not None,
            "num_cayley_neumann_terms": peft.terms or 5,
        }


class MiSSFormat(Format):
    """The variant is said as a way to begin."""

    def settings(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        begun = fields["init_weights"]
        variant = begun if begun in ("bat", "mini") else "plain"
        dropout = 0.0 if variant == "bat" else fields["miss_dropout"]
        return super().settings(fields) | {"variant": variant, "dropout": dropout}

    def written(
        self, peft: MiSS, adapters: list[Adapter]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        tensors, fields = super().written(peft, adapters)
        begun = True if peft.variant == "plain" else peft.variant
        return tensors, fields | {"init_weights": begun, "miss_dropout": peft.dropout}


class LoKrFormat(Format):
    """No factor of the sizes is -1."""

    def settings(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        factor = fields["decompose_factor"]
        return super().settings(fields) | {"factor": None if factor == -1 else factor}

    def written(
        self, peft: LoKr, adapters: list[Adapter]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        tensors, fields = super().written(peft, adapters)
        return tensors, fields | {"decompose_factor": peft.factor or -1}


class PiSSAFormat(Format):
    """Written as LoRA of twice the rank beside the whole base: A and A₀, B and -B₀."""

    def written(
        self, peft: PiSSA, adapters: list[Adapter]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        tensors, fields = super().written(peft, adapters)
        doubled = {"r": 2 * peft.rank, "lora_alpha": 2 * peft.alpha}
        return tensors, fields | doubled

    def theirs(self, adapter: Adapter) -> Weights:
        w = adapter.weights
        a, b = np.hstack([w["a"], w["a0"]]), np.vstack([w["b"], -w["b0"]])
        return {"a": a, "b": b}
