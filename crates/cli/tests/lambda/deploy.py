"""Creates a Lambda function of a bootstrap program: ENDPOINT NAME BOOTSTRAP CONCURRENCY [VARIABLE=VALUE ...].

CONCURRENCY is the number of environments reserved for it, or - for as many as there can be."""

import base64
import io
import json
import sys
import urllib.request
import zipfile

endpoint, name, bootstrap, concurrency, *variables = sys.argv[1:]
archive = io.BytesIO()
with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as package:
    entry = zipfile.ZipInfo("bootstrap")
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o755 << 16
    with open(bootstrap, "rb") as program:
        package.writestr(entry, program.read())
function = {
    "FunctionName": name,
    "Runtime": "provided.al2023",
    "Handler": "bootstrap",
    "Role": "arn:aws:iam::000000000000:role/function",
    "MemorySize": 1769,
    "Timeout": 60,
    "Code": {"ZipFile": base64.b64encode(archive.getvalue()).decode()},
    "Environment": {"Variables": dict(variable.split("=", 1) for variable in variables)},
}


def call(method, path, body):
    request = urllib.request.Request(endpoint + path, json.dumps(body).encode(), method=method)
    # An emulation checks no signature, but looks for the service's name in it.
    request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/lambda/aws4_request")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request) as answer:
        print(answer.status)


call("POST", "/2015-03-31/functions", function)
if concurrency != "-":
    reserved = {"ReservedConcurrentExecutions": int(concurrency)}
    call("PUT", f"/2017-10-31/functions/{name}/concurrency", reserved)
