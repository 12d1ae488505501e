"""Run the project's pipelines, here and on Azure ML; nobody needs to change this package.

It is the same in every project, whatever its answers are. It does not import the project's
own files. The caller passes them in as a `Project` and its `Pipelines`.

    project.py            the project, its settings and its pipelines
    settings_models.py    sections of settings, and types of values that follow a rule
    settings_reader.py    reads settings files into those sections, and lists problems
    workspaces.py         the workspaces of a project, and the files of each
    rule.py               what a value must be, and how a wrong value is corrected
    rules.py              the rules of names and settings
    vm_sizes.py           VM sizes, and when Azure retires them
    regions.py            the regions of Azure, and what people call them
    arguments.py          the command lines of steps, for pipelines.py
    steps.py              the steps of a pipeline, and the values of its parameters
    errors.py             the errors that end a command with a message
    files.py              the files of a folder of data
    harmless_text.py      text from elsewhere, made harmless for a terminal
    graph.py              pictures of pipelines
    lock.py               pins the packages of environment/
    command_line.py       runs the command that the command line names
    command_parser.py     the options of all commands, and their help
    commands.py           the commands

On this machine:

    local/run.py              runs the steps of a pipeline
    local/plan.py             the steps in their order, and the values of parameters
    local/run_context.py      what all modules of a run share
    local/step_runner.py      runs one step
    local/step_alone.py       prepares to run one step alone, in an earlier run
    local/reuse.py            decides which steps need not run again
    local/registered_models.py  the registered models that steps look up
    local/fingerprints.py     fingerprints of files
    local/run_folder.py       the folders of runs, and how long they are kept
    local/run_record.py       the file run.json of a run
    local/run_result.py       how a run ended
    local/processes.py        the processes of steps
    local/supervisor.py       runs one step, and ends it with the run
    local/fork_server.py      forks the processes of steps, with their packages loaded
    local/parallel_driver.py  the driver of a parallel step
    local/tracking.py         MLflow's database
    local/tracked_runs.py     the runs of pipelines and steps in this database
    local/run_history.py      earlier runs, and what differs between two of them
    local/run_tables.py       what the commands `runs` and `models` print
    local/screen.py           messages and progress

On Azure ML:

    azure/login.py           the login, and the message if there is none
    azure/checks.py          the table of `check`
    azure/online_checks.py   runs the checks of `check --online`
    azure/check_results.py   the inputs and the results of these checks
    azure/resource_checks.py  checks the workspace, the compute and what contains them
    azure/identity_checks.py  checks identities and roles
    azure/capacity_checks.py  checks VM sizes and quotas
    azure/resource_manager.py  the REST API that these checks ask
    azure/roles.py           who needs which role, and how they get it
    azure/connection.py      silences the SDK, and turns its errors into messages
    azure/sdk_errors.py      explains the errors of the SDK
    azure/errors.py          the errors that end a command for Azure
    azure/call_limits.py     limits the time of a call of the SDK
    azure/request_guard.py   limits for every request of the SDKs
    azure/refusals.py        why Azure refuses a request, and what to do
    azure/error_bodies.py    the errors in the bodies of Azure's responses
    azure/sdk_log.py         keeps what the SDK prints and logs
    azure/provision.py       the command `provision`
    azure/submit.py          the command `submit`
    azure/publish.py         the command `publish`
    azure/status.py          the command `status`
    azure/session.py         the connection of a command to a workspace
    azure/data_folders.py    the folders that pipelines read their data from
    azure/upload_data.py     uploads these folders
    azure/blob_container.py  uploads files, several at a time
    azure/build_pipeline.py  builds a pipeline that Azure ML can run
    azure/follow_run.py      follows a run to its end
    azure/resources.py       descriptions of what is in a workspace
    azure/workspace_interface.py  what the commands need of a workspace
    azure/sdk_steps.py       the steps of the SDK that the pipelines are written in
    azure/sdk_workspace.py   the workspace interface, implemented with that SDK
"""

import sys
from pathlib import Path

#: The version of the template; its CHANGELOG.md says what each asks of a project.
VERSION = "2.0.0"
#: The beginning of every command of the project.
COMMAND = f"python -m {Path(__file__).resolve().parents[1].name}"


def describe_missing_package(error: ModuleNotFoundError) -> str:
    """Return the message about a package that is not installed.

    The function is here because this file needs only the standard library.
    """
    version = ".".join(map(str, sys.version_info[:2]))
    return (
        f"{error.name} is not installed for this Python {version} ({sys.executable}):"
        " install the project, as README.md says."
    )
