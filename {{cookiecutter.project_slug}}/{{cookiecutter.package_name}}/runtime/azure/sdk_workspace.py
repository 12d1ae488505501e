{#- The code of this file is in templates/SDK/runtime/azure/sdk_workspace.py, where SDK is the
    answer azureml_sdk. -#}
{% include cookiecutter.azureml_sdk ~ "/runtime/azure/sdk_workspace.py" %}
