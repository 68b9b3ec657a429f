"""The HTTP service and the command line of pairfuse. Runs with onnxruntime alone and never imports torch."""
