"""What runs on a device: answers with the model beside it, counts what was used in a signed log, sends it when it can.

These files are copied as they are into the folder that `tollway export edge` makes, with `tollway.inference` and two modules
of `tollway.kit`. On the device there is nothing else: Python, numpy, and the engine (onnxruntime or ai-edge-litert); tokenizers
for texts, pillow for pictures. So nothing here may import more than that.
"""
