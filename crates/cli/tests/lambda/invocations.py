"""Prints how many invocations a Lambda function's own log has: ENDPOINT NAME."""

import json
import sys
import urllib.request

endpoint, name = sys.argv[1:]
query = {"logGroupName": f"/aws/lambda/{name}"}
invocations = 0
while True:
    request = urllib.request.Request(endpoint, json.dumps(query).encode())
    request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/logs/aws4_request")
    request.add_header("Content-Type", "application/x-amz-json-1.1")
    request.add_header("X-Amz-Target", "Logs_20140328.FilterLogEvents")
    with urllib.request.urlopen(request) as answer:
        page = json.load(answer)
    invocations += sum(event["message"].startswith("REPORT ") for event in page["events"])
    if not page.get("nextToken"):
        break
    query["nextToken"] = page["nextToken"]
print(invocations)
