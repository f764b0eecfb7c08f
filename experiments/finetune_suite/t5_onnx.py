"""The T5 that `package:traceforge-title-model` carries as ONNX, as a folder of the hub.

The matrices are int8 with one scale and one zero point each: weight = scale * (stored -
zero point). An embedding keeps its name in the file; a Linear is called
"onnx::MatMul_NUMBER", lies [in, out], and only the node that multiplies with it says
whose it is ("/enc/block.0/layer.0/SelfAttention/q/MatMul_quant").
"""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import safetensors.numpy
from onnx import numpy_helper

CONFIG = {  # flan-t5-small's, which the files' shapes agree with
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "is_encoder_decoder": True,
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 1024,
    "num_heads": 6,
    "num_layers": 8,
    "num_decoder_layers": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
SHARED = "encoder.embed_tokens.weight"


def write(package: Path, folder: Path) -> None:
    """config.json and model.safetensors, float32, in `folder`, which must exist.

    Raises:
      ValueError: the encoder's and the decoder's embeddings differ, or a matrix that no
        node or several nodes of different names multiply with.
    """
    tensors = weights(package / "encoder.onnx") | weights(package / "decoder.onnx")
    if not np.array_equal(tensors.pop(SHARED), tensors["shared.weight"]):
        raise ValueError(f"{package}: encoder and decoder embed tokens differently")
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")


def weights(path: Path) -> dict[str, np.ndarray]:
    """A graph's weights by the hub's names, dequantised to float32; as `write`."""
    graph = onnx.load(path, load_external_data=False).graph
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    tensors = {}
    for name, values in stored.items():
        if name.endswith(("_scale", "_zero_point")):
            continue
        weight = name.removesuffix("_quantized")
        if weight != name:
            zero, scale = stored[f"{weight}_zero_point"], stored[f"{weight}_scale"]
            values = (values.astype(np.int32) - zero.astype(np.int32)) * scale
        if weight.startswith("onnx::MatMul"):
            owners = {n.name for n in graph.node if name in n.input}
            if len(owners) != 1:
                raise ValueError(f"{path}: {name} belongs to the nodes {owners}")
            node = owners.pop().removeprefix("/").removesuffix("/MatMul_quant")
            weight, values = node.replace("/", ".") + ".weight", values.T
        weight = re.sub(r"^enc\.", "encoder.", re.sub(r"^m\.", "", weight))
        tensors[weight] = np.ascontiguousarray(values, np.float32)
    return tensors
