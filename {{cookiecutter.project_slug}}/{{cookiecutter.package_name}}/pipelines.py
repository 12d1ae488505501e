{{ read_unrendered(cookiecutter.azureml_sdk ~ "/pipelines.py") }}
