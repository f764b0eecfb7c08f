"""The Transformer a second time: NumPy, float64, one row and one head at a time.

Written from the papers and the names of the parameters, not from `llmjax.models`; slow
and plain, so that it can be read against the formulas. `rows` hold what a batch holds,
without its first axis.
"""

import math

import numpy as np

from llmjax.config import ModelConfig

erf = np.vectorize(math.erf)

ACTIVATIONS = {
    "gelu": lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: (
        0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "relu": lambda x: np.where(x > 0, x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu_squared": lambda x: np.where(x > 0, x, 0) ** 2,
}


def to_float64(params):
    """Nested dicts of arrays, in float64."""
    if isinstance(params, dict):
        return {k: to_float64(v) for k, v in params.items()}
    return np.asarray(params, np.float64)


def logits(cfg: ModelConfig, params, batch) -> np.ndarray:
    """[B, T, V] of a `LanguageModel` with these params."""
    params = to_float64(params)
    rows = [{k: np.asarray(v[i]) for k, v in batch.items()} for i in _indices(batch)]
    return np.stack([_row_logits(cfg, params, row) for row in rows])


def _indices(batch) -> range:
    return range(len(batch["tokens"]))


def _row_logits(cfg, params, row):
    p = params["transformer"]
    T = len(row["tokens"])
    x = embed(cfg, p["embedder"], row["tokens"], row.get("positions", np.arange(T)))
    encoded = None
    if cfg.architecture == "encoder_decoder":
        source = row["encoder_tokens"]
        positions = row.get("encoder_positions", np.arange(len(source)))
        ids = row.get("encoder_segment_ids", np.ones(len(source), int))
        y = embed(cfg, p["embedder"], source, positions)
        y = stack(cfg, p["encoder"], y, positions, ids, False, None)
        encoded = (y, ids, "encoder_segment_ids" in row)
    positions = row.get("positions", np.arange(T))
    ids = row.get("segment_ids", np.ones(T, int))
    causal = cfg.architecture != "encoder"
    x = stack(cfg, p["stack"], x, positions, ids, causal, encoded)
    table = p["embedder"]["table"] if cfg.tie_embeddings else params["unembedding"]
    return x @ table.T


def embed(cfg, p, tokens, positions):
    """Token vectors plus absolute positions, [T, D]."""
    x = p["table"][tokens]
    if cfg.positions.kind == "learned":
        x = x + p["positions"][positions]
    if cfg.positions.kind == "sinusoidal":
        x = x + sinusoids(positions, cfg.d_model, cfg.positions.max_wavelength)
    return x


def sinusoids(positions, size, wavelength):
    """Vaswani et al. 2017, 3.5: sin at 2i, cos at 2i + 1, of pos / w^(2i / D)."""
    out = np.zeros((len(positions), size))
    for t, position in enumerate(positions):
        for j in range(size):
            angle = position / wavelength ** ((j - j % 2) / size)
            out[t, j] = math.cos(angle) if j % 2 else math.sin(angle)
    return out


def stack(cfg, p, x, positions, ids, causal, encoded):
    """Every layer of every group in turn, [T, D]."""
    for g, group in enumerate(cfg.layers):
        for repeat in range(group.repeat):
            for i, spec in enumerate(group.pattern):
                layer = _slice(p[f"group_{g}"][f"layer_{i}"], repeat)
                x = block(cfg, layer, spec, x, positions, ids, causal, encoded)
    if cfg.norm_position == "post":
        return x
    return norm(cfg, p["final_norm"], x)


def _slice(p, i):
    return {k: _slice(v, i) for k, v in p.items()} if isinstance(p, dict) else p[i]


def block(cfg, p, spec, x, positions, ids, causal, encoded):
    """Self-attention, attention to the encoder if there is one, feed-forward."""

    def attend(h):
        window = getattr(spec.pattern, "window", None)
        visible = may_see(positions, ids, causal, window)
        return attention(cfg, p["attention"], h, h, visible, positions)

    def attend_encoder(h):
        y, y_ids, padded = encoded
        same = np.array([[a == b != 0 for b in y_ids] for a in ids])
        visible = same if padded else np.ones((len(ids), len(y_ids)), bool)
        return attention(cfg, p["cross_attention"], h, y, visible, None)

    x = residual(cfg, p, "attention", attend, x)
    if encoded is not None:
        x = residual(cfg, p, "cross_attention", attend_encoder, x)
    return residual(cfg, p, "mlp", lambda h: feed_forward(cfg, p["mlp"], h), x)


def residual(cfg, p, name, f, x):
    """Xiong et al. 2020, figure 1: post-norm as in 2017, or pre-norm; or both."""
    if cfg.norm_position == "post":
        return norm(cfg, p[f"{name}_norm"], x + f(x))
    y = f(norm(cfg, p[f"{name}_norm"], x))
    if cfg.norm_position == "both":
        y = norm(cfg, p[f"{name}_post_norm"], y)
    return x + y


def norm(cfg, p, x):
    """Layer normalisation, or its root-mean-square form without mean and bias."""
    if cfg.norm.kind == "rms_norm":
        rms = np.sqrt((x**2).mean(-1, keepdims=True) + cfg.norm.epsilon)
        return x / rms * p["scale"]
    variance = x.var(-1, keepdims=True)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + cfg.norm.epsilon)
    return x * p["scale"] + p["bias"]


def feed_forward(cfg, p, x):
    """max(0, x W1 + b1) W2 + b2 with another activation, or gated (Shazeer 2020)."""
    act = ACTIVATIONS[cfg.mlp.activation]
    h = x @ p["up"]["kernel"] + p["up"].get("bias", 0)
    if cfg.mlp.kind == "gated":
        h = act(x @ p["gate"]["kernel"] + p["gate"].get("bias", 0)) * h
    else:
        h = act(h)
    return h @ p["down"]["kernel"] + p["down"].get("bias", 0)


def may_see(positions, ids, causal, window):
    """[T, T] bool, pair by pair."""
    T = len(positions)
    visible = np.zeros((T, T), bool)
    for t in range(T):
        for s in range(T):
            ahead = positions[t] - positions[s]
            visible[t, s] = (
                ids[t] == ids[s] != 0
                and (ahead >= 0 or not causal)
                and (window is None or abs(ahead) < window)
            )
    return visible


def attention(cfg, p, x, source, visible, positions):
    """Heads one by one; `positions` of None: no rotation (attention to an encoder)."""
    out = np.zeros((len(x), cfg.d_model))
    group = cfg.num_heads // cfg.K
    for n in range(cfg.num_heads):
        q = _head(p["query"], x, n)
        k, v = (_head(p[name], source, n // group) for name in ("key", "value"))
        if cfg.positions.kind == "rotary" and positions is not None:
            q, k = (turn(a, positions, cfg.positions.theta) for a in (q, k))
        if cfg.scores.kind == "cosine":
            q, k = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (q, k))
            score = q @ k.T * math.exp(p["log_scale"][n])
        else:
            score = q @ k.T
        if cfg.scores.kind == "scaled_dot":
            score = score / math.sqrt(cfg.H)
        out += softmax(score, visible) @ v @ p["out"]["kernel"][n]
    return out + p["out"].get("bias", 0)


def _head(p, x, n):
    y = x @ p["kernel"][:, n]
    return y + p["bias"][n] if "bias" in p else y


def softmax(score, visible):
    """Over the visible keys; a row that sees none gives zeros."""
    p = np.where(visible, np.exp(score - score.max(-1, keepdims=True)), 0)
    return p / np.maximum(p.sum(-1, keepdims=True), 1e-300)


def turn(x, positions, theta):
    """Su et al. 2021, eq. 13: the pair (i, i + H/2) as a complex number, rotated."""
    half = x.shape[-1] // 2
    z = x[:, :half] + 1j * x[:, half:]
    rate = theta ** (-2 * np.arange(half) / x.shape[-1])
    z = z * np.exp(1j * np.asarray(positions)[:, None] * rate)
    return np.concatenate([z.real, z.imag], axis=-1)
