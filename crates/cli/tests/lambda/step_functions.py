"""Runs an exported round on an emulation: ENDPOINT FOLDER BUCKET PREFIX UNITS [KEY=FILE ...].

Each KEY is an object of the bucket to be made of a file. The UNITS' gradients are put into the folder's units/."""

import json
import os
import sys
import time
import urllib.request

endpoint, folder, bucket, prefix, units, *objects = sys.argv[1:]


def send(method, path, body, service, headers={}):
    request = urllib.request.Request(endpoint + path, body, method=method)
    # An emulation checks no signature, but looks for the service's name in it.
    credential = f"Credential=test/20260101/us-east-1/{service}/aws4_request"
    request.add_header("Authorization", f"AWS4-HMAC-SHA256 {credential}")
    for name, value in headers.items():
        request.add_header(name, value)
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def states(action, **body):
    headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": f"AWSStepFunctions.{action}"}
    return json.loads(send("POST", "/", json.dumps(body).encode(), "states", headers))


send("PUT", f"/{bucket}", b"", "s3")
for placed in objects:
    key, path = placed.split("=", 1)
    with open(path, "rb") as file:
        send("PUT", f"/{bucket}/{key}", file.read(), "s3")
with open(f"{folder}/state-machine.json") as file:
    definition = file.read()
role = "arn:aws:iam::000000000000:role/states"
machine = states("CreateStateMachine", name="round", definition=definition, roleArn=role)
execution = states("StartExecution", stateMachineArn=machine["stateMachineArn"], input="{}")
status = {"status": "RUNNING"}
while status["status"] == "RUNNING":
    time.sleep(0.1)
    status = states("DescribeExecution", executionArn=execution["executionArn"])
if status["status"] != "SUCCEEDED":
    for run in states("ListMapRuns", executionArn=execution["executionArn"])["mapRuns"]:
        for child in states("ListExecutions", mapRunArn=run["mapRunArn"])["executions"]:
            failed = states("DescribeExecution", executionArn=child["executionArn"])
            print(failed.get("error"), failed.get("cause"), file=sys.stderr)
    sys.exit(json.dumps(status))
os.mkdir(f"{folder}/units")
for unit in range(int(units)):
    with open(f"{folder}/units/{unit}.f32", "wb") as file:
        file.write(send("GET", f"/{bucket}/{prefix}/units/{unit}.f32", None, "s3"))
