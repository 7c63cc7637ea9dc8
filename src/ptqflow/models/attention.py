"""Attention written as linear layers, matrix products and a softmax, so that its linear layers become INT8."""

import math

from torch import Tensor, nn


class Attention(nn.Module):
    """Computes what an `nn.MultiheadAttention` in evaluation mode does, to float32 rounding.

    What few networks have is left to the module itself: padding masks, masks for each image, keys added to all.

    Args:
        attention: whose tensors it shares.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.whole = attention
        self.heads, self.batch_first = attention.num_heads, attention.batch_first
        weights: tuple[Tensor, ...] = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        if attention.in_proj_weight is not None:
            self.in_proj = _linear(attention.in_proj_weight, attention.in_proj_bias)
            weights = attention.in_proj_weight.chunk(3)
        biases = [None] * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = (_linear(*pair) for pair in zip(weights, biases, strict=True))
        self.out_proj = _linear(attention.out_proj.weight, attention.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what `nn.MultiheadAttention.forward` returns."""
        adds_keys = self.whole.bias_k is not None or self.whole.add_zero_attn
        for_images = attn_mask is not None and attn_mask.dim() != 2
        if adds_keys or for_images or key_padding_mask is not None or query.dim() != 3:
            options = (key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal)
            result: tuple[Tensor, Tensor | None] = self.whole(query, key, value, *options)
            return result
        q, k, v = (self._separate_heads(values) for values in self._project(query, key, value))
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
        if attn_mask is not None:
            is_bool = not attn_mask.dtype.is_floating_point
            scores = scores.masked_fill(attn_mask, -math.inf) if is_bool else scores + attn_mask
        weights = scores.softmax(-1)
        output = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        averaged = weights.mean(1) if average_attn_weights else weights
        return output if self.batch_first else output.transpose(0, 1), averaged if need_weights else None

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        if query is key and key is value and hasattr(self, "in_proj"):
            together: Tensor = self.in_proj(query)
            return together.chunk(3, -1)
        return self.q_proj(query), self.k_proj(key), self.v_proj(value)

    def _separate_heads(self, values: Tensor) -> Tensor:
        """Return (images, heads, positions, channels of a head)."""
        ordered = values if self.batch_first else values.transpose(0, 1)
        heads: Tensor = ordered.unflatten(-1, (self.heads, -1))
        return heads.transpose(1, 2)


def write_attention(model: nn.Module) -> None:
    """Put an `Attention` in the place of each `nn.MultiheadAttention` of a network, in place."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.MultiheadAttention and name:
            model.set_submodule(name, Attention(module))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), False)
    return layer.eval()
