"""Prints the pod that a Knative service describes, without the fields that are Knative's own."""

import sys

import yaml

with open(sys.argv[1]) as manifest:
    service = yaml.safe_load(manifest)
assert (service["apiVersion"], service["kind"]) == ("serving.knative.dev/v1", "Service")
pod = service["spec"]["template"]["spec"]
for own in ("containerConcurrency", "timeoutSeconds"):
    pod.pop(own)
for container in pod["containers"]:
    container.setdefault("name", "unit")
yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "unit"}, "spec": pod}, sys.stdout)
