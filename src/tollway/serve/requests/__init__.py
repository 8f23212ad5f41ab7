"""What can be asked of a model: the OpenAI request shapes, strictly typed, and what each engine is sent for them.

Everything a caller can name is either done, or refused by name: an unknown or unsupported parameter is a 400 that says
which, never silence. Parameters without effect on the answer (`user`, `metadata`, ...) are accepted and go no further.
"""

from tollway.serve.requests.generation import (
    CHOICES_MAX,
    PROMPTS_MAX,
    SEEDS,
    ChatRequest,
    CompletionRequest,
    Generation,
    Message,
    Part,
    StreamOptions,
)
from tollway.serve.requests.inputs import (
    EXPLAINED_MAX,
    ClassifyRequest,
    DetectRequest,
    EmbeddingRequest,
    ExplainRequest,
)
from tollway.serve.requests.making import ImageRequest, SpeechRequest, TranscriptionRequest
from tollway.serve.requests.parts import INPUTS_MAX, EngineCall, Name, OnePiece
from tollway.serve.requests.ranking import ModerationRequest, RecommendationRequest, RerankRequest

Request = ChatRequest | CompletionRequest | OnePiece

__all__ = [
    "CHOICES_MAX",
    "EXPLAINED_MAX",
    "INPUTS_MAX",
    "PROMPTS_MAX",
    "SEEDS",
    "ChatRequest",
    "ClassifyRequest",
    "CompletionRequest",
    "DetectRequest",
    "EmbeddingRequest",
    "EngineCall",
    "ExplainRequest",
    "Generation",
    "ImageRequest",
    "Message",
    "ModerationRequest",
    "Name",
    "OnePiece",
    "Part",
    "RecommendationRequest",
    "Request",
    "RerankRequest",
    "SpeechRequest",
    "StreamOptions",
    "TranscriptionRequest",
]
