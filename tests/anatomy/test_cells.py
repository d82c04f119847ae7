"""The cell of every kind of tensor name that decoders have, against a table written by hand."""

import pytest
from transformers import GPT2Config, PretrainedConfig, Qwen2Config

from vlmmerge import Anatomy
from vlmmerge.anatomy.cells import cell_of

CELLS = {
    # outside the layers
    "embed.weight": "embed",
    "embed.embed_norm.weight": "embed",  # Inkling normalises what it looks up
    "embeddings.LayerNorm.bias": "embed",
    "embeddings.position_embeddings.weight": "embed",
    "embed_positions.weight": "embed",
    "wpe.weight": "embed",
    "segment_emb.weight": "embed",
    "project_in.weight": "embed",
    "embed_tokens_per_layer.weight": "embed",
    "per_layer_model_projection.weight": "embed",
    "per_layer_projection_norm.weight": "embed",
    "rotary_emb.alpha": "embed",
    "head.weight": "head",
    "head.bias": "head",
    "cls.predictions.transform.LayerNorm.weight": "head",
    "project_out.weight": "head",
    "norm.weight": "norm",
    "norm_f.weight": "norm",
    "ln_f.bias": "norm",
    "final_layer_norm.bias": "norm",
    "final_layernorm.weight": "norm",
    "embedding_norm.weight": "norm",  # what LFM2 calls its last
    "hyper_connection_mixer.input_mix_weight_up.weight": "norm",
    "altup_unembed_projections.2.weight": "norm",
    # ways to number layers
    "layers.12.self_attn.q_proj.weight": "layers.12.attn",
    "h.3.attn.c_attn.weight": "layers.3.attn",
    "blocks.7.attn.Wqkv.weight": "layers.7.attn",
    "encoder.layer.10.attention.self.query.bias": "layers.10.attn",
    "decoder.layers.0.fc1.weight": "layers.0.mlp",
    # attention, and what takes its place
    "layers.0.self_attn.q_norm.weight": "layers.0.attn",
    "layers.0.self_attn.gate_proj.weight": "layers.0.attn",
    "layers.0.self_attn.inner_attn_ln.bias": "layers.0.attn",
    "layers.0.self_attn.indexer.k_norm.bias": "layers.0.attn",
    "layers.0.self_attn.kv_a_layernorm.weight": "layers.0.attn",
    "layers.0.self_attention.dense.weight": "layers.0.attn",
    "layers.0.linear_attn.conv1d.weight": "layers.0.attn",
    "layers.0.linear_attn.norm.weight": "layers.0.attn",
    "layers.0.linear_attn.A_log": "layers.0.attn",
    "layers.0.conv.in_proj.weight": "layers.0.attn",
    "layers.0.mamba.in_proj.weight": "layers.0.attn",
    "layers.0.attn_sconv.conv1d.weight": "layers.0.attn",
    "layers.0.attn_hc.base": "layers.0.attn",
    "layers.0.attn_hyper_connection.hc_norm.weight": "layers.0.attn",
    "layers.0.attention_input.query": "layers.0.attn",
    "layers.0.post_attention_residual_gate.gate": "layers.0.attn",
    "layers.0.post_attention_convolution.conv1d.weight": "layers.0.attn",
    "layers.0.laurel.post_laurel_norm.weight": "layers.0.attn",
    "encoder.layer.0.attention.output.LayerNorm.weight": "layers.0.attn",
    "blocks.0.norm_attn_norm.attn.Wqkv.weight": "layers.0.attn",  # DBRX
    # one block a layer, be it what it may (Nemotron-H)
    "layers.0.mixer.in_proj.weight": "layers.0.attn",
    "layers.0.mixer.norm.weight": "layers.0.attn",
    "layers.0.mixer.D": "layers.0.attn",
    "layers.4.mixer.q_proj.weight": "layers.4.attn",
    "layers.1.mixer.up_proj.weight": "layers.1.mlp",
    "layers.1.mixer.gate.weight": "layers.1.mlp",
    "layers.1.mixer.experts.down_proj": "layers.1.mlp",
    "layers.1.mixer.shared_experts.up_proj.weight": "layers.1.mlp",
    # MLPs, dense and of experts
    "layers.1.mlp.down_proj.weight": "layers.1.mlp",
    "layers.1.mlp.dense_h_to_4h.weight": "layers.1.mlp",
    "layers.1.mlp.router.weight": "layers.1.mlp",
    "layers.1.mlp.gate.e_score_correction_bias": "layers.1.mlp",
    "layers.1.mlp.experts.gate_up_proj": "layers.1.mlp",
    "layers.1.mlp.experts.post_expert_norm.weight": "layers.1.mlp",
    "layers.1.mlp.shared_expert_gate.weight": "layers.1.mlp",
    "layers.1.block_sparse_moe.gate.weight": "layers.1.mlp",
    "layers.1.feed_forward.w2.weight": "layers.1.mlp",
    "layers.1.feed_forward.shared_expert.up_proj.weight": "layers.1.mlp",
    "layers.1.experts.gate_up_proj": "layers.1.mlp",
    "layers.1.router.per_expert_scale": "layers.1.mlp",
    "layers.1.ffn.ffn_layernorm.weight": "layers.1.mlp",
    "layers.1.ffn_hc.fn": "layers.1.mlp",
    "layers.1.fc2.bias": "layers.1.mlp",
    "layers.1.mlp_input.query": "layers.1.mlp",
    "layers.1.post_mlp_convolution.conv1d.weight": "layers.1.mlp",
    "layers.1.post_feedforward_residual_gate.gate": "layers.1.mlp",
    "layers.1.per_layer_input_gate.weight": "layers.1.mlp",
    "layers.1.per_layer_projection.weight": "layers.1.mlp",
    "layers.1.ple.norm_key.weight": "layers.1.mlp",
    "encoder.layer.1.intermediate.dense.weight": "layers.1.mlp",
    "encoder.layer.1.output.dense.weight": "layers.1.mlp",
    "encoder.layer.1.output.LayerNorm.weight": "layers.1.mlp",
    # norms between them
    "layers.2.input_layernorm.weight": "layers.2.norm",
    "layers.2.post_attention_layernorm.bias": "layers.2.norm",
    "layers.2.self_attn_layer_norm.weight": "layers.2.norm",
    "layers.2.pre_feedforward_layernorm.weight": "layers.2.norm",
    "layers.2.post_per_layer_input_norm.weight": "layers.2.norm",
    "layers.2.post_mlp_layernorm.weight": "layers.2.norm",
    "layers.2.ffn_norm.weight": "layers.2.norm",
    "layers.2.operator_norm.weight": "layers.2.norm",
    "layers.2.norm.weight": "layers.2.norm",
    "layers.2.layer_scalar": "layers.2.norm",
    "h.2.ln_1.weight": "layers.2.norm",
    "blocks.2.norm_attn_norm.norm_1.weight": "layers.2.norm",
}


@pytest.mark.parametrize(("part", "cell"), CELLS.items(), ids=CELLS)
def test_cell_of_a_part(part: str, cell: str) -> None:
    assert str(cell_of(part)) == cell


@pytest.mark.parametrize("config", [Qwen2Config(num_hidden_layers=2), GPT2Config(n_layer=2)])
def test_cells_of_plain_models(config: PretrainedConfig) -> None:
    cells = {str(cell_of(part)) for part in Anatomy.of(config).parts.values()}
    layers = {f"layers.{i}.{module}" for i in (0, 1) for module in ("attn", "mlp", "norm")}
    assert layers | {"embed", "norm"} <= cells <= layers | {"embed", "norm", "head"}
