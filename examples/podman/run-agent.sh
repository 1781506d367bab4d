#!/bin/sh
# Runs the agent of ../python-agent in a container of Podman, as root. Before the first time:
#   interceptor install podman
#   install -m 600 KEY_FILE /etc/interceptor/openai
#   install -m 600 agent.json /etc/interceptor/policies/agent.json
set -eu
image=${IMAGE:-docker.io/library/python:3}
agent=$(cd "$(dirname "$0")/../python-agent" && pwd)

exec podman run --rm --network none --annotation io.interceptor.policy=agent \
    --volume "$agent:/agent:ro" "$image" python3 /agent/agent.py
