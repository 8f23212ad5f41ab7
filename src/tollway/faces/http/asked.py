"""The doors of `/v1` that take one JSON body and answer from a model: path -> what the body is. For the API and its docs."""

from tollway.serve.requests import (
    ChatRequest,
    ClassifyRequest,
    CompletionRequest,
    DetectRequest,
    EmbeddingRequest,
    ExplainRequest,
    ImageRequest,
    ModerationRequest,
    OnePiece,
    RecommendationRequest,
    RerankRequest,
)

ASKED: dict[str, type[ChatRequest] | type[CompletionRequest] | type[OnePiece]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/v1/classify": ClassifyRequest,
    "/v1/detect": DetectRequest,
    "/v1/explain": ExplainRequest,
    "/v1/rerank": RerankRequest,
    "/v1/moderations": ModerationRequest,
    "/v1/images/generations": ImageRequest,
    "/v1/recommendations": RecommendationRequest,
}
