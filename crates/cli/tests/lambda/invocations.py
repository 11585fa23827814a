"""Prints how many invocations a Lambda function's own log has and how many ms are billed for them: ENDPOINT NAME."""

import json
import re
import sys
import urllib.request

endpoint, name = sys.argv[1:]
query = {"logGroupName": f"/aws/lambda/{name}"}
reports = []
while True:
    request = urllib.request.Request(endpoint, json.dumps(query).encode())
    request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/logs/aws4_request")
    request.add_header("Content-Type", "application/x-amz-json-1.1")
    request.add_header("X-Amz-Target", "Logs_20140328.FilterLogEvents")
    with urllib.request.urlopen(request) as answer:
        page = json.load(answer)
    reports += [event["message"] for event in page["events"] if event["message"].startswith("REPORT ")]
    if not page.get("nextToken"):
        break
    query["nextToken"] = page["nextToken"]
print(len(reports), sum(int(re.search(r"\tBilled Duration: (\d+) ms", report)[1]) for report in reports))
