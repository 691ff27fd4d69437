#!/bin/sh
# A Ray cluster of two nodes on this machine, each with one CPU.
#   tests/cluster/ray.sh start FOLDER && export RAY_ADDRESS=$(cat FOLDER/address)
#   tests/cluster/ray.sh kill-node FOLDER    the second node is gone at once, with all that runs on it
#   tests/cluster/ray.sh stop FOLDER
# `ray` comes from the PATH. FOLDER has a short path: Ray puts sockets there.
set -eu

action=${1:?start, kill-node or stop}
folder=$(realpath -m "${2:?a folder}")
port=26379
# Starting takes long where other programs want the cores, and a raylet gives up after 15 seconds.
export RAY_raylet_start_wait_time_s=60 RAY_health_check_initial_delay_ms=120000 RAY_health_check_timeout_ms=60000

# The raylets of this folder's cluster.
raylets() {
    pgrep -f "raylet/raylet .*$folder/ray/" || true
}

# Ports that are given are not waited for. The first argument is the first of them.
start_node() {
    first=$1
    shift
    ray start "$@" --num-cpus=1 --disable-usage-stats --object-store-memory=100000000 \
        --dashboard-agent-grpc-port="$first" --dashboard-agent-listen-port=$((first + 1)) \
        --metrics-export-port=$((first + 2)) --runtime-env-agent-port=$((first + 3))
}

# A raylet and what it has started, workers among it: nothing has time to say goodbye.
end() {
    kill -9 "$1" $(pgrep -P "$1") 2>/dev/null || true
}

case $action in
start)
    mkdir -p "$folder"
    start_node 26400 --head --port=$port --include-dashboard=false --temp-dir="$folder/ray" > "$folder/head.log" 2>&1
    raylets > "$folder/head.pid"
    address=$(grep -o '[0-9]\+\.[0-9]\+\.[0-9]\+\.[0-9]\+' "$folder/head.log" | head -n 1):$port
    for _ in 1 2 3; do
        if start_node 26410 --address="$address" > "$folder/node.log" 2>&1; then break; fi
    done
    raylets | grep -v -x -f "$folder/head.pid" > "$folder/node.pid"
    echo "$address" > "$folder/address"
    ;;
kill-node)
    end "$(cat "$folder/node.pid")"
    ;;
stop)
    for raylet in $(raylets); do end "$raylet"; done
    kill $(pgrep -f "$folder/ray/") 2>/dev/null || true
    ;;
*)
    echo "$action is none of start, kill-node, stop" >&2
    exit 2
    ;;
esac
