"""Training and batch-scoring pipelines on Azure Machine Learning."""
