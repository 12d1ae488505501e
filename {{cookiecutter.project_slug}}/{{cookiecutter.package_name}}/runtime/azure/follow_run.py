"""Follow a run on Azure ML to its end, and explain why its steps have failed."""

from __future__ import annotations

import time

from ..steps import LOG_END
from .call_limits import call_with_limit
from .connection import Printer
from .errors import CallTooLong
from .resources import Failure
from .session import Session
from .workspace_interface import RunInterface

#: Azure is asked for the state of the run at this interval.
POLL_SECONDS = 3
#: After this many failed polls in a row, the run is no longer followed.
MAX_FAILED_POLLS = 3
#: azureml-sdk calls a run that has succeeded finished, and azure-ai-ml calls it completed.
SUCCESS_STATES = ("finished", "completed")
FINAL_STATES = (*SUCCESS_STATES, "failed", "canceled")

#: Parts of the names of a failed step's logs, beginning with the most useful log.
LOGS_BY_USEFULNESS = (
    # The errors of the entry script of a parallel step. The step's own log only says
    # "SystemExit: 42".
    "logs/user/error.txt",
    # The output of the script.
    "user_logs/std_log",
    # The preparation of the step, which may fail before its script is started.
    "executionlogs.txt",
)


def follow_run(session: Session, run: RunInterface) -> bool:
    """Report the states of a run's steps until the run ends.

    Returns whether the run has succeeded. If this function fails or is interrupted, the run
    itself continues on Azure ML, and its address is printed.
    """
    try:
        final_state = _poll_until_end(session, run)
    except BaseException:  # This includes Ctrl-C.
        session.printer(f"The run continues on Azure ML: {run.url}")
        raise

    session.report(final_state, f"run {run.id}")
    if final_state == "failed":
        for failure in call_with_limit("to explain the failure", run.failures):
            _show_failure(failure, session.printer)
    return final_state in SUCCESS_STATES


def _poll_until_end(session: Session, run: RunInterface) -> str:
    """Report changed states of steps until the run ends, and return its final state.

    A poll asks Azure for the state once. If MAX_FAILED_POLLS polls in a row have failed, the
    error of the last one is raised. Raises CallTooLong if a poll has taken too long.
    """
    reported_states: dict[str, str] = {}
    failed_polls = 0
    while True:
        time.sleep(POLL_SECONDS)
        try:
            state = _poll_once(session, run, reported_states)
        except CallTooLong:
            # A poll that has waited until its limit is not repeated.
            raise
        except Exception:
            failed_polls += 1
            if failed_polls == MAX_FAILED_POLLS:
                raise
            continue

        failed_polls = 0
        if state in FINAL_STATES:
            return state


def _poll_once(
    session: Session, run: RunInterface, reported_states: dict[str, str]
) -> str:
    """Report the steps whose state has changed, and return the state of the run.

    `reported_states` maps the id of each step's run to the state that was reported last. The
    newly reported states are added to it.
    """
    # The state of the run is read first: if the run has ended by then, the states of the
    # steps that are read afterwards are final.
    run_state = call_with_limit("to report the state of the run", run.state)
    for step in call_with_limit("to report the states of the steps", run.steps):
        if reported_states.get(step.run_id) != step.state:
            reported_states[step.run_id] = step.state
            session.report(step.state, step.name)
    return run_state


def _show_failure(failure: Failure, printer: Printer) -> None:
    """Print why a step has failed, and the last LOG_END lines of its most useful log.

    A failure without a step is that of the run as a whole, which has no logs. For this
    failure, only the reason is printed.
    """
    reason = failure.reason or "Azure ML gives no reason."
    if not failure.step:
        printer(reason)
        return

    printer(f"{failure.step} has failed: {reason}")
    log = _choose_log(failure.logs)
    if log:
        text = call_with_limit("to send a log", failure.read_log, log)
        printer(f"The log {log} ends with:")
        for line in text.splitlines()[-LOG_END:]:
            printer(f"    {line}")
    printer(f"All logs of the step: {failure.url}")
    if failure.is_parallel:
        # The logs in the other folders are those of the driver, the program of Azure ML that
        # runs the entry script of a parallel step.
        printer("The output and the errors of the entry script are in logs/user/.")


def _choose_log(logs: list[str]) -> str:
    """Return the name of the most useful log, or "" if there are no logs."""
    for part in LOGS_BY_USEFULNESS:
        for log in sorted(logs):
            if part in log:
                return log
    return min(logs, default="")
