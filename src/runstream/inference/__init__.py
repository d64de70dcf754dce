"""Local inference that streams: llama.cpp, mistral.rs and any OpenAI-compatible server, in one shape."""

from ..errors import ExtraMissing, InferenceFailed
from .chunk import InferenceChunk
from .chunk_stream import InferenceChunkStream
from .into_run import stream_to_run
from .llama_cpp import LlamaCppOptions, LlamaCppProvider
from .message import ChatMessage, ToolCall, Usage
from .mistral_rs import MistralRsOptions, MistralRsProvider
from .openai_server import OpenAIProvider
from .options import InferenceOptions
from .provider import Provider
from .tiny_model import TinyModel
from .tiny_scripts import Script

__all__ = [
    "ChatMessage",
    "ExtraMissing",
    "InferenceChunk",
    "InferenceChunkStream",
    "InferenceFailed",
    "InferenceOptions",
    "LlamaCppOptions",
    "LlamaCppProvider",
    "MistralRsOptions",
    "MistralRsProvider",
    "OpenAIProvider",
    "Provider",
    "Script",
    "TinyModel",
    "ToolCall",
    "Usage",
    "stream_to_run",
]
