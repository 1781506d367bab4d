#!/bin/sh
# Runs the agent of ../python-agent in a container of Docker, as root:
#   run-agent.sh POLICY [OPTION OF interceptor attach]...
#
# Docker calls no hooks, so the container starts without a network and waits; when enforcement is in
# place, the agent starts in it with the placeholders and the CA that `attach` printed.
set -eu
policy=$1
shift
image=${IMAGE:-python:3}
agent=$(cd "$(dirname "$0")/../python-agent" && pwd)
work=$(mktemp -d)
attach=
stop() {
    docker rm --force agent > /dev/null 2>&1 || true
    [ -z "$attach" ] || kill "$attach" 2> /dev/null || true
    rm -r "$work"
}
trap stop EXIT

# Engines' own profiles leave ways out that no network rule sees, such as vsock.
interceptor oci-hook < "${PROFILE:-/usr/share/containers/seccomp.json}" > "$work/seccomp.json"
docker run --detach --name agent --network none --cap-drop ALL --stop-timeout 0 \
    --security-opt "seccomp=$work/seccomp.json" --volume "$agent:/agent:ro" \
    "$image" sleep infinity > /dev/null

pid=$(docker inspect --format '{{.State.Pid}}' agent)
mkfifo "$work/ready"
interceptor attach --policy "$policy" --pid "$pid" --private-network --json \
    --cgroup "$(sed -n 's/^0:://p' "/proc/$pid/cgroup")" "$@" > "$work/ready" &
attach=$!
read -r ready < "$work/ready"

# The placeholders by name, and the CA in a file that Python is told to trust.
printf %s "$ready" | python3 -c '
import json, sys
made, work = json.load(sys.stdin), sys.argv[1]
open(work + "/ca.pem", "w").write(made["ca_pem"])
open(work + "/env", "w").writelines(f"{name}={value}\n" for name, value in made["env"].items())
' "$work"
docker cp "$work/ca.pem" agent:/tmp/ca.pem > /dev/null
docker exec --env-file "$work/env" --env SSL_CERT_FILE=/tmp/ca.pem agent python3 /agent/agent.py
