"""Starts ministack so that the log in an answer ends with the REPORT line, as that of AWS Lambda does.

Version 1.5.33 writes this line to the function's log in CloudWatch, but leaves it out of what the answer to an
invocation has of the log (`LogType: Tail`), and nothing else tells the caller what is billed. It is the very line."""

import sys
import threading

from ministack.app import main
from ministack.services import cloudwatch_logs, lambda_svc

written = threading.local()
append, execute = cloudwatch_logs._append_log_events, lambda_svc._execute_function


def remember(stream, events):
    reports = [event["message"] for event in events if event["message"].startswith("REPORT ")]
    written.report = reports[-1] if reports else None
    return append(stream, events)


def answer(function, event):
    written.report = None
    result = execute(function, event)
    if isinstance(result, dict) and written.report:
        result["log"] = (result.get("log") or "").rstrip("\n") + "\n" + written.report
    return result


cloudwatch_logs._append_log_events = remember
lambda_svc._execute_function = answer
sys.exit(main())
