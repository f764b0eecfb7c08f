"""The other side of every comparison, computed by transformers."""

import contextlib
import json
import logging
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers.core_model_loading import revert_weight_conversion

from tests.parity import draws
from tests.parity.compare import Outputs, blank, blank_layers
from tests.parity.draws import NEW_TOKENS, Inputs
from tests.parity.shapes import Variant

# families whose files may have a table of sinusoids; ours don't
SINUSOIDS, POSITIONS = {"marian", "pegasus"}, "embed_positions.weight"

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


def write(variant: Variant, folder: Path, seed: int) -> dict[str, tuple[int, ...]]:
    """A model's folder as transformers writes it, weights redrawn; its tensors.

    Where the config says that the embeddings are untied and transformers nevertheless
    ties them (T5 1.1), the folder has the head of its own, as published ones do.
    """
    torch.manual_seed(0)
    model_class = getattr(transformers, variant.architecture)
    model = model_class(model_class.config_class(**variant.config))
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    shapes = {
        name: value.shape
        for name, value in load_file(file).items()
        if variant.family not in SINUSOIDS or POSITIONS not in name
    }
    if variant.name in ("t5/1.1", "mt5/gated"):
        shapes["lm_head.weight"] = shapes["shared.weight"]
        config = json.loads((folder / "config.json").read_text())
        config["tie_word_embeddings"] = False
        config.pop("scale_decoder_outputs", None)
        (folder / "config.json").write_text(json.dumps(config, indent=2))
    norms = draws.norms_around(variant.name)
    save_file(
        {
            name: draws.weight(name, shape, seed, norms)
            for name, shape in shapes.items()
        },
        file,
        metadata={"format": "pt"},
    )
    return shapes


def load(variant: Variant, folder: Path) -> torch.nn.Module:
    """The model in a folder.

    Raises:
      ValueError: a tensor was missing, extra or mis-shaped.
    """
    with quiet():
        model, info = getattr(transformers, variant.architecture).from_pretrained(
            folder,
            attn_implementation="eager",
            experts_implementation="eager",
            dtype=torch.float32,
            output_loading_info=True,
        )
    if variant.family in SINUSOIDS:  # made anew
        missing = info["missing_keys"]
        info["missing_keys"] = {name for name in missing if POSITIONS not in name}
    if wrong := {kind: names for kind, names in info.items() if names}:
        raise ValueError(f"transformers loads {folder} with {wrong}")
    return model.eval()


@contextlib.contextmanager
def quiet():
    """Silences warnings, which say that embeddings are untied where they are."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def run(variant: Variant, model: torch.nn.Module, inputs: Inputs, seed: int) -> Outputs:
    """Logits, hidden states, gradients and greedy decoding."""
    logits, hidden, pooled = forward(variant, model, inputs)
    total = torch.zeros(())
    for value in (hidden if logits is None else logits, pooled):
        if value is not None:
            drawn = draws.cotangent(tuple(value.shape), inputs.segment_ids, seed)
            total = total + (value * torch.from_numpy(drawn)).sum()
    model.zero_grad()
    total.backward()
    decoded = gaps = None
    if variant.decode and variant.kind != "encoder":
        decoded, gaps = decode(variant, model, inputs)
    arrays = blanked(inputs, logits, hidden, pooled)
    return Outputs(*arrays, gradients(model), decoded, gaps)


def outputs(variant: Variant, model: torch.nn.Module, inputs: Inputs):
    """The logits, hidden and pooled of `Outputs` alone."""
    with torch.no_grad():
        return blanked(inputs, *forward(variant, model, inputs))


def blanked(inputs: Inputs, *values: torch.Tensor | None) -> list[np.ndarray | None]:
    return [
        None if v is None else blank(v.detach().numpy(), inputs.segment_ids)
        for v in values
    ]


def forward(variant: Variant, model: torch.nn.Module, inputs: Inputs):
    """Logits, last hidden states of the Transformer or decoder, pooled, or None."""
    if variant.alone:
        rows = [together(variant, forgotten(model), row) for row in inputs.rows()]
        return [x[0] if x[0] is None else torch.cat(x) for x in zip(*rows, strict=True)]
    return together(variant, model, inputs)


def forgotten(model: torch.nn.Module) -> torch.nn.Module:
    """The model without the longest length that its dynamic rates have seen."""
    for module in model.modules():
        if hasattr(module, "max_seq_len_cached"):
            module.max_seq_len_cached = module.original_max_seq_len
            module.inv_freq = module.original_inv_freq.clone()
    return model


def activations(
    variant: Variant, model: torch.nn.Module, inputs: Inputs
) -> dict[str, np.ndarray]:
    """Hidden states and attention maps, stacked over the layers; 0 at padding."""
    with torch.no_grad():
        if variant.alone:
            rows = [_layers(variant, forgotten(model), row) for row in inputs.rows()]
            out = {k: np.concatenate([r[k] for r in rows], axis=1) for k in rows[0]}
        else:
            out = _layers(variant, model, inputs)
    return blank_layers(out, inputs)


def _layers(
    variant: Variant, model: torch.nn.Module, inputs: Inputs
) -> dict[str, np.ndarray]:
    """`activations` of the batch as one, padding as it comes.

    Of two streams the content is before the queries, along the queries' axis.
    """
    asked = {"output_hidden_states": True, "output_attentions": True}
    output = model(**arguments(variant, inputs), **asked)
    out = {}
    for name, layers in output.items():
        if name.endswith(("hidden_states", "attentions")) and len(layers):
            if isinstance(layers[0], tuple):  # maps of both streams
                layers = [torch.cat(both, dim=2) for both in layers]
            elif inputs.hidden_mask is not None:  # states of the streams by turns
                both = zip(layers[::2], layers[1::2], strict=True)
                layers = [torch.cat(states, dim=1) for states in both]
            out[name] = torch.stack(layers).numpy()
    return out


def together(variant: Variant, model: torch.nn.Module, inputs: Inputs):
    """`forward` of the batch as one."""
    tensors = arguments(variant, inputs)
    core = model.base_model
    if core is model and variant.kind == "encoder-decoder":
        core = model.decoder  # T5's
    elif variant.kind == "decoder":
        core = getattr(core, "decoder", core)  # OPT's
    captured = []
    hook = core.register_forward_hook(lambda *call: captured.append(call[-1]))
    output = model(**tensors)
    hook.remove()
    hidden = captured[-1].last_hidden_state
    return (
        getattr(output, "logits", None),
        hidden,
        getattr(output, "pooler_output", None),
    )


def arguments(variant: Variant, inputs: Inputs) -> dict[str, torch.Tensor]:
    """The inputs as the variant's forward takes them."""
    arrays = {"input_ids": inputs.tokens, "attention_mask": inputs.segment_ids}
    if variant.kind == "encoder-decoder":
        arrays = {
            "input_ids": inputs.encoder_tokens,
            "attention_mask": inputs.encoder_segment_ids,
            "decoder_input_ids": inputs.tokens,
            "decoder_attention_mask": inputs.segment_ids,
        }
    elif variant.takes_positions:
        arrays["position_ids"] = inputs.positions
    if inputs.token_types is not None:
        arrays["token_type_ids"] = inputs.token_types
    tensors = {k: torch.from_numpy(v).long() for k, v in arrays.items()}
    if inputs.hidden_mask is not None:
        tensors["perm_mask"] = torch.from_numpy(inputs.hidden_mask).float()
        tensors["target_mapping"] = torch.eye(inputs.tokens.shape[1]).repeat(
            len(inputs.tokens), 1, 1
        )
    if variant.family == "xlnet":
        tensors["attention_mask"] = tensors["attention_mask"].float()
    return tensors


def gradients(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Gradients by the names in files; saving is linear, so it serves for them too."""
    fixed = {
        n for n, p in model.named_parameters() if POSITIONS in n and p.grad is None
    }
    unsaved = {
        *fixed,
        *model.all_tied_weights_keys,
        *(model._keys_to_ignore_on_save or ()),
    }
    grads = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in model.named_parameters()
        if p.requires_grad and name not in unsaved
    }
    grads = revert_weight_conversion(model, grads)
    return {name: grad.numpy().copy() for name, grad in grads.items()}


def decode(
    variant: Variant, model: torch.nn.Module, inputs: Inputs
) -> tuple[np.ndarray, np.ndarray]:
    """Greedy continuations [B, M], and the gaps of `Outputs`."""
    if variant.alone:
        rows = [decode_together(variant, model, row) for row in inputs.rows()]
        tokens, gaps = zip(*rows, strict=True)
        return np.concatenate(tokens), np.concatenate(gaps)
    return decode_together(variant, model, inputs)


def decode_together(
    variant: Variant, model: torch.nn.Module, inputs: Inputs
) -> tuple[np.ndarray, np.ndarray]:
    """`decode` of the prompts as one batch."""
    pad = variant.config.get("pad_token_id", 0)
    longest = max(map(len, inputs.prompts))
    rows = [(pad,) * (longest - len(p)) + p for p in inputs.prompts]
    mask = [(0,) * (longest - len(p)) + (1,) * len(p) for p in inputs.prompts]
    if variant.kind == "encoder-decoder":
        arguments = {
            "input_ids": torch.from_numpy(inputs.encoder_tokens).long(),
            "attention_mask": torch.from_numpy(inputs.encoder_segment_ids).long(),
            "decoder_input_ids": torch.tensor(rows),
        }
    else:
        arguments = {
            "input_ids": torch.tensor(rows),
            "attention_mask": torch.tensor(mask),
        }
    config = transformers.GenerationConfig(
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=None,
        pad_token_id=pad,
        decoder_start_token_id=variant.config.get("decoder_start_token_id"),
        output_logits=True,
        return_dict_in_generate=True,
    )
    model.generation_config = transformers.GenerationConfig()
    with quiet(), torch.no_grad():
        generated = model.generate(**arguments, generation_config=config)
    logits = torch.stack(generated.logits, dim=1)
    best = logits.topk(2, dim=-1).values
    gaps = (best[..., 0] - best[..., 1]) / logits.abs().max()
    return generated.sequences[:, longest:].numpy().astype(np.int32), gaps.numpy()
