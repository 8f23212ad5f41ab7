"""Inference: rows -> arrays -> answers, in this process and without torch. The factory encodes with it, the replica serves
with it, so that training and serving cannot drift apart.

    features = inference.fit("text-classification", table)      # learnt from the training rows
    arrays = features.collate(features.encode(rows))             # what a model takes
    inference.load(folder).predict([{"text": "a lovely film"}])  # an ONNX model and its features
"""

from typing import TYPE_CHECKING

from tollway.kit import lazy

if TYPE_CHECKING:
    from tollway.inference.detection import DetectionFeatures, boxes_of
    from tollway.inference.encoding import IGNORE, Arrays, Encoded, Features, Target
    from tollway.inference.folder import features_of, fit, load_features
    from tollway.inference.image import ImageFeatures
    from tollway.inference.pair import PairFeatures
    from tollway.inference.predictor import Predictor, batches, load
    from tollway.inference.question import QuestionFeatures
    from tollway.inference.sequence import SequenceFeatures
    from tollway.inference.tabular import TabularFeatures
    from tollway.inference.text import TextFeatures
    from tollway.inference.tokens import TokenFeatures

__all__ = [
    "IGNORE", "Arrays", "DetectionFeatures", "Encoded", "Features", "ImageFeatures", "PairFeatures", "Predictor",
    "QuestionFeatures", "SequenceFeatures", "TabularFeatures", "Target",
    "TextFeatures", "TokenFeatures", "batches", "boxes_of", "features_of", "fit", "load", "load_features",
]  # fmt: skip

_LAZY = {
    "DetectionFeatures": "detection", "boxes_of": "detection", "IGNORE": "encoding", "Arrays": "encoding",
    "Encoded": "encoding", "Features": "encoding", "Target": "encoding", "features_of": "folder", "fit": "folder",
    "load_features": "folder", "ImageFeatures": "image", "PairFeatures": "pair", "Predictor": "predictor",
    "batches": "predictor", "load": "predictor", "QuestionFeatures": "question", "SequenceFeatures": "sequence",
    "TabularFeatures": "tabular", "TextFeatures": "text", "TokenFeatures": "tokens",
}  # fmt: skip
__getattr__ = lazy.parts(__name__, _LAZY)
