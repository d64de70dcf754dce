"""A tiny language model whose every answer is known: real files for real engines, made in a moment.

It is a llama of one layer with weights that were not trained but worked out, so that tests, demos and
benchmarks run a true forward pass without a download:

* Each token has a random code of ±1; the embedding writes it, the output layer looks for it. "After this
  token comes that one" is a link: the code of the one is added to the output row of the other. So a script
  is a chain of links, and no token may be in two places.
* The chat template ends with a newline. Its embedding also asks; the embedding of a cue (a word that the
  user may say) answers; the one attention head that does anything carries the newest cue to the newline,
  which decides on the script whose first token comes next. "Newest", because the rotary position embedding
  turns the answers of older cues away.

The gap to the second best token is so wide that the answer is the same at any usual temperature.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Final

from .tiny_files import Matrix, Value, write_gguf, write_safetensors
from .tiny_scripts import SCRIPTS, Script

# The shape of the network. It holds some hundred links without one being taken for another.
_WIDTH: Final = 128
_HEADS: Final = 4
_HEAD_WIDTH: Final = _WIDTH // _HEADS
_FEED_FORWARD: Final = 32  # its weights are zeros, but engines want one
_CONTEXT: Final = 4096
_ROPE_BASE: Final = 10_000.0
_NORM_EPSILON: Final = 1e-5

# How much the right token stands out; 60 is beyond what a temperature of 1 or 2 can bridge.
_LINK_LOGIT: Final = 60.0
# What a cue adds for its script, and how much the script without a cue is ahead of the others.
_CUE_LOGIT: Final = 90.0
_NO_CUE_LOGIT: Final = 30.0
# How sharply the head looks at cues alone. The rotary embedding turns this pair of its dimensions by a
# thousandth of a radian a token, away from a question that leans by 45 degrees: so cues that lie 20 tokens
# apart differ by e^5, and one that is 780 tokens back no longer counts.
_ATTENTION: Final = 400.0
_SLOW_PAIR: Final = (12, 12 + _HEAD_WIDTH // 2)

# What a token's half in one special dimension measures once it is normalised to a mean square of 1.
_SIGNAL: Final = math.sqrt(_WIDTH / 2)

_BEGIN, _TURN, _END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_CONTROL: Final = (_BEGIN, _TURN, _END)
_TAGS: Final = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>")

# GGUF's numbers for kinds of tokens: ordinary, never shown, never split.
_NORMAL, _CONTROL_TYPE, _USER_DEFINED = 1, 3, 4

CHAT_TEMPLATE: Final = """\
{%- if messages[0].role == 'system' or tools -%}
<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}
{%- if tools %}
You may call these functions:
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>
Call one so: <tool_call>{"name": "...", "arguments": {...}}</tool_call>
{%- endif %}<|im_end|>
{% endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' -%}
{{ '<|im_start|>assistant\\n' }}
{%- if message.reasoning_content -%}
{{ '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
{%- endif -%}
{%- if message.content %}{{ message.content }}{% endif -%}
{%- if message.tool_calls -%}
{%- for tool_call in message.tool_calls -%}
{%- set call = tool_call.function if tool_call.function else tool_call -%}
{{ '<tool_call>{"name": "' + call.name + '", "arguments": ' }}
{%- if call.arguments is string %}{{ call.arguments }}{% else %}{{ call.arguments | tojson }}{% endif -%}
{{ '}</tool_call>' }}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- elif message.role == 'tool' -%}
{{ '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""


class TinyModel:
    """The model of some scripts; `write_gguf` and `write_safetensors` give the engines their files.

    `feed_forward` is the width of a layer that adds nothing to the answer but time and bytes: with 30 000,
    a token takes milliseconds, as those of larger models do, and the file 46 MB.

    Raises ValueError if two places share a piece, which would make the model go on from the wrong one.
    """

    def __init__(
        self, scripts: Sequence[Script] = SCRIPTS, *, feed_forward: int = _FEED_FORWARD
    ) -> None:
        self._scripts = tuple(scripts)
        self._feed_forward = feed_forward
        self._cues = [script.cue for script in scripts if script.cue is not None]
        # A word of a prompt is its bytes, but a cue is merged from its letters, one by one, into a token.
        # Earlier merges go first: the "th" of "think" must not split "weather".
        self._merges = [
            f"{cue[:length]} {cue[length]}"
            for cue in sorted(self._cues, key=len, reverse=True)
            if cue not in _TAGS
            for length in range(1, len(cue))
        ]
        words = [merge.replace(" ", "") for merge in self._merges]
        pieces = map(_token_name, _checked_pieces(self._scripts))
        # Tags and control tokens are found in a text before it is split.
        names = dict.fromkeys((*_BYTE_NAMES, *words, *pieces))
        self._ordinary = [name for name in names if name not in _TAGS]
        self._tokens = [*self._ordinary, *_CONTROL, *_TAGS]
        self._ids = {token: number for number, token in enumerate(self._tokens)}

    def write_gguf(self, path: Path) -> Path:
        """Write one GGUF file."""
        weights = self._weights()
        for name in ("q_proj", "k_proj"):
            projection = f"model.layers.0.self_attn.{name}.weight"
            weights[projection] = _interleaved(weights[projection])
        tensors = {_GGUF_NAMES[name]: matrix for name, matrix in weights.items()}
        write_gguf(path, self._gguf_metadata(), tensors)
        return path

    def write_safetensors(self, folder: Path) -> Path:
        """Write a folder as model hubs have them: safetensors, tokenizer, configuration."""
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / "model.safetensors", self._weights())
        begin, end = self._ids[_BEGIN], self._ids[_END]
        documents: dict[str, object] = {
            "config.json": {
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "hidden_act": "silu",
                "hidden_size": _WIDTH,
                "intermediate_size": self._feed_forward,
                "num_hidden_layers": 1,
                "num_attention_heads": _HEADS,
                "num_key_value_heads": _HEADS,
                "max_position_embeddings": _CONTEXT,
                "rms_norm_eps": _NORM_EPSILON,
                "rope_theta": _ROPE_BASE,
                "vocab_size": len(self._tokens),
                "tie_word_embeddings": False,
                "torch_dtype": "float32",
                "bos_token_id": begin,
                "eos_token_id": end,
            },
            "generation_config.json": {
                "bos_token_id": begin,
                "eos_token_id": [end],
                "do_sample": False,
            },
            "tokenizer_config.json": {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": _BEGIN,
                "eos_token": _END,
                "pad_token": _BEGIN,
                "add_bos_token": False,
                "add_eos_token": False,
                "clean_up_tokenization_spaces": False,
                "model_max_length": _CONTEXT,
                "chat_template": CHAT_TEMPLATE,
            },
            "tokenizer.json": self._tokenizer(),
        }
        for name, document in documents.items():
            (folder / name).write_text(json.dumps(document, indent=1))
        return folder

    # --- the weights -----------------------------------------------------------------------------

    def _weights(self) -> dict[str, Matrix]:
        """Every matrix, under the names that safetensors folders use."""
        layer = "model.layers.0."
        square = (_WIDTH, _WIDTH)
        weights = {
            "model.embed_tokens.weight": Matrix(len(self._tokens), _WIDTH),
            "lm_head.weight": Matrix(len(self._tokens), _WIDTH),
            "model.norm.weight": Matrix(1, _WIDTH),
            layer + "input_layernorm.weight": Matrix(1, _WIDTH),
            layer + "post_attention_layernorm.weight": Matrix(1, _WIDTH),
            layer + "self_attn.q_proj.weight": Matrix(*square),
            layer + "self_attn.k_proj.weight": Matrix(*square),
            layer + "self_attn.v_proj.weight": Matrix(*square),
            layer + "self_attn.o_proj.weight": Matrix(*square),
            layer + "mlp.gate_proj.weight": Matrix(self._feed_forward, _WIDTH),
            layer + "mlp.up_proj.weight": Matrix(self._feed_forward, _WIDTH),
            layer + "mlp.down_proj.weight": Matrix(_WIDTH, self._feed_forward),
        }
        for name, matrix in weights.items():
            if name.endswith("norm.weight"):
                matrix.fill(1.0)
        self._write_scripts(weights["model.embed_tokens.weight"], weights["lm_head.weight"])
        self._write_attention(weights, layer + "self_attn.")
        return weights

    def _write_scripts(self, embedding: Matrix, output: Matrix) -> None:
        """The codes, and the links from each token to the next one."""
        # The last dimensions are no code: one for each cue, then what asks, answers and ends.
        asks, answers, ends = self._special_dimensions()
        code_width = asks - len(self._cues)
        random = Random(0)  # noqa: S311 - it must be the same each time
        codes = [
            [1.0 if random.getrandbits(1) else -1.0 for _ in range(code_width)]
            for _ in self._tokens
        ]
        # Tokens have one length, so that normalising (to a mean square of 1) leaves them alike.
        length = math.sqrt(code_width)
        for token, number in self._ids.items():
            if token in self._cues:
                embedding.add(number, code_width + self._cues.index(token), length / math.sqrt(2))
                embedding.add(number, answers, length / math.sqrt(2))
                continue
            for dimension, sign in enumerate(codes[number]):
                embedding.add(number, dimension, sign)

        def link(here: int, there: int, logit: float = _LINK_LOGIT) -> None:
            for dimension, sign in enumerate(codes[here]):
                output.add(there, dimension, sign * logit / code_width)

        newline, end = self._ids[_token_name("\n")], self._ids[_END]
        embedding.add(newline, asks, length)
        output.add(end, ends, _LINK_LOGIT / _SIGNAL)
        for script in self._scripts:
            numbers = [self._ids[_token_name(piece)] for piece in script.pieces]
            link(newline, numbers[0], _LINK_LOGIT + _NO_CUE_LOGIT * (script.cue is None))
            for here, there in pairwise(numbers):
                link(here, there)
            if script.endless:
                link(numbers[-1], numbers[0])
            else:
                embedding.add(numbers[-1], ends, length)
            if script.cue is not None:
                output.add(
                    numbers[0], code_width + self._cues.index(script.cue), _CUE_LOGIT / _SIGNAL
                )

    def _write_attention(self, weights: dict[str, Matrix], prefix: str) -> None:
        """One head: the newline asks, cues answer with who they are, and that is added to the newline."""
        asks, answers, _ = self._special_dimensions()
        gain = math.sqrt(_ATTENTION * math.sqrt(_HEAD_WIDTH)) / _SIGNAL
        for dimension in _SLOW_PAIR:
            weights[prefix + "q_proj.weight"].add(dimension, asks, gain * math.sqrt(0.5))
        weights[prefix + "k_proj.weight"].add(_SLOW_PAIR[0], answers, gain)
        first_cue = asks - len(self._cues)
        for number in range(len(self._cues)):
            weights[prefix + "v_proj.weight"].add(number, first_cue + number, 1.0)
            weights[prefix + "o_proj.weight"].add(first_cue + number, number, 1.0)

    def _special_dimensions(self) -> tuple[int, int, int]:
        return _WIDTH - 3, _WIDTH - 2, _WIDTH - 1

    # --- the tokenizer ---------------------------------------------------------------------------

    def _gguf_metadata(self) -> dict[str, Value]:
        types = [_NORMAL] * len(self._ordinary) + [_CONTROL_TYPE] * len(_CONTROL)
        types += [_USER_DEFINED] * (len(self._tokens) - len(types))
        return {
            "general.architecture": "llama",
            "general.name": "tiny",
            "general.file_type": 0,
            "llama.context_length": _CONTEXT,
            "llama.embedding_length": _WIDTH,
            "llama.block_count": 1,
            "llama.feed_forward_length": self._feed_forward,
            "llama.attention.head_count": _HEADS,
            "llama.attention.head_count_kv": _HEADS,
            "llama.attention.layer_norm_rms_epsilon": _NORM_EPSILON,
            "llama.rope.freq_base": _ROPE_BASE,
            "llama.rope.dimension_count": _HEAD_WIDTH,
            "llama.vocab_size": len(self._tokens),
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": self._tokens,
            "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.merges": self._merges,
            "tokenizer.ggml.bos_token_id": self._ids[_BEGIN],
            "tokenizer.ggml.eos_token_id": self._ids[_END],
            "tokenizer.ggml.padding_token_id": self._ids[_BEGIN],
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.chat_template": CHAT_TEMPLATE,
        }

    def _tokenizer(self) -> dict[str, object]:
        """The same tokenizer, as a `tokenizer.json`."""
        added = [
            {
                "id": self._ids[token],
                "content": token,
                "special": token in _CONTROL,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
            for token in self._tokens[len(self._ordinary) :]
        ]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {**byte_level, "use_regex": True},
            "post_processor": None,
            "decoder": {**byte_level, "use_regex": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {token: number for number, token in enumerate(self._ordinary)},
                "merges": [merge.split(" ") for merge in self._merges],
            },
        }


def _byte_names() -> tuple[str, ...]:
    """GPT-2's printable character for each byte: itself if it has a shape, else one from 256 on."""
    shapes = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return tuple(chr(byte if byte in shapes else next(others)) for byte in range(256))


_BYTE_NAMES: Final = _byte_names()

_GGUF_NAMES: Final = {
    "model.embed_tokens.weight": "token_embd.weight",
    "lm_head.weight": "output.weight",
    "model.norm.weight": "output_norm.weight",
    "model.layers.0.input_layernorm.weight": "blk.0.attn_norm.weight",
    "model.layers.0.post_attention_layernorm.weight": "blk.0.ffn_norm.weight",
    "model.layers.0.self_attn.q_proj.weight": "blk.0.attn_q.weight",
    "model.layers.0.self_attn.k_proj.weight": "blk.0.attn_k.weight",
    "model.layers.0.self_attn.v_proj.weight": "blk.0.attn_v.weight",
    "model.layers.0.self_attn.o_proj.weight": "blk.0.attn_output.weight",
    "model.layers.0.mlp.gate_proj.weight": "blk.0.ffn_gate.weight",
    "model.layers.0.mlp.up_proj.weight": "blk.0.ffn_up.weight",
    "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
}


def _token_name(piece: str | bytes) -> str:
    """A piece as vocabularies spell it: a printable character for each byte; tags as they are."""
    if piece in _TAGS:
        return str(piece)
    encoded = piece.encode() if isinstance(piece, str) else piece
    return "".join(_BYTE_NAMES[byte] for byte in encoded)


def _checked_pieces(scripts: Sequence[Script]) -> list[str | bytes]:
    pieces = [piece for script in scripts for piece in script.pieces]
    names = ["\u010a", *map(_token_name, pieces)]  # the newline asks, so no script may say it alone
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(
            f"each piece is one token with one successor, but these come twice: {twice}"
        )
    return pieces


def _interleaved(projection: Matrix) -> Matrix:
    """The rows of a query or key projection in GGUF's order.

    The rotary embedding turns pairs of dimensions; safetensors keep the halves of the pairs apart (i with
    i + half), GGUF keeps each pair together (2i with 2i + 1).
    """
    result = Matrix(projection.rows, projection.columns)
    half = _HEAD_WIDTH // 2
    for row in range(projection.rows):
        head, inner = divmod(row, _HEAD_WIDTH)
        target = head * _HEAD_WIDTH + 2 * (inner % half) + inner // half
        source = slice(row * projection.columns, (row + 1) * projection.columns)
        begin = target * projection.columns
        result.values[begin : begin + projection.columns] = projection.values[source]
    return result
