"""What the names and shapes of a state dict imply about its options."""

from __future__ import annotations

from collections.abc import Mapping

from bytegolf.config import Config

Shapes = Mapping[str, tuple[int, ...]]
Value = int | float | bool | str


def implied_options(shapes: Shapes) -> dict[str, Value]:
    """Options that published names and their shapes decide, as far as the tensors are there; never wrong, not all."""
    out: dict[str, Value] = {}
    dims = _first(shapes, "blocks.0.resid_mix", 2)
    head = next((p for p in ("attn", "mixer") if f"blocks.0.{p}.q_gain" in shapes), None)
    if head is not None:
        out["family"] = "byte260" if head == "attn" else "byte256"
    blocks = {
        int(name.split(".")[1]) for name in shapes if name.startswith("blocks.") and name.split(".")[1].isdecimal()
    }
    if blocks:
        out["num_layers"] = max(blocks) + 1
    if dims:
        out["model_dim"] = dims[1]
    gain = _first(shapes, f"blocks.0.{head}.q_gain", 1)
    if gain:
        out["num_heads"] = gain[0]
        keys = _first(shapes, f"blocks.0.{head}.c_k.weight", 2)
        if keys and dims and gain[0] and dims[1] % gain[0] == 0 and dims[1] and keys[0] % (dims[1] // gain[0]) == 0:
            out["num_kv_heads"] = keys[0] // (dims[1] // gain[0])
    hidden = _first(shapes, "blocks.0.mlp.fc.weight", 2)
    if hidden and hidden[1]:
        out["mlp_mult"] = hidden[0] / hidden[1]
    if blocks:
        out["smear"] = "smear.gate" in shapes or "smear_gate.gate" in shapes
        bigram = _first(shapes, "bigram.embed.weight", 2) or _first(shapes, "bigram_hash.embed.weight", 2)
        out["bigram_vocab_size"] = bigram[0] if bigram else 0
        if bigram:
            out["bigram_dim"] = bigram[1]
        encoder = _first(shapes, "patch_encoder.weight", 3)
        out["patch_size"] = encoder[2] if encoder else 1
        if encoder:
            out["byte_embed_dim"] = encoder[1]
        if "lm_head.weight" not in shapes and "intra_decoder.lm_head.weight" not in shapes:
            out["tie_embeddings"] = True  # where there is one, it may still be a copy of the table
    projector = _first(shapes, "jepa_projector.fc1.weight", 2)
    latent = _first(shapes, "jepa_projector.fc2.weight", 2)
    if projector and latent:
        out["jepa_proj_hidden"], out["jepa_latent_dim"] = projector[0], latent[0]
    elif blocks:
        out["jepa_chunk_size"] = 0
    return out


def differences(config: Config, shapes: Shapes) -> list[str]:
    """Where `config` contradicts the shapes, as "name = value (the config has value)"."""
    out = []
    for name, value in implied_options(shapes).items():
        own = getattr(config, name)
        if name == "mlp_mult":  # a width in the end
            same = config.mlp_dim == round(float(value) * config.model_dim)
        elif name in ("jepa_proj_hidden", "jepa_latent_dim") and config.jepa_chunk_size == 0:
            continue
        else:
            same = own == value
        if not same:
            out.append(f"{name} = {shown(value)} (the config has {shown(own)})")
    if "jepa_projector.fc1.weight" in shapes and config.jepa_chunk_size == 0:
        out.append("jepa_chunk_size > 0 (the config has 0)")
    return out


def _first(shapes: Shapes, name: str, rank: int) -> tuple[int, ...] | None:
    shape = shapes.get(name)
    return shape if shape is not None and len(shape) == rank else None


def shown(value: Value) -> str:
    """A value as a TOML file has it."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
