#!/bin/sh
# Two network namespaces, node_a (10.77.0.1) and node_b (10.77.0.2), with one cable between them: two machines, for
# programs that meet over the network. It needs root and iproute2.
#   tests/cluster/namespaces.sh start
#   ip netns exec node_a ... & ip netns exec node_b ...
#   tests/cluster/namespaces.sh stop
set -eu

case ${1:-} in
start)
    ip netns add node_a
    ip netns add node_b
    ip link add cable_a netns node_a type veth peer name cable_b netns node_b
    for side in a b; do
        [ $side = a ] && address=10.77.0.1 || address=10.77.0.2
        ip -n node_$side link set lo up
        ip -n node_$side address add $address/24 dev cable_$side
        ip -n node_$side link set cable_$side up
    done
    ;;
stop)
    for side in a b; do ip netns delete node_$side 2>/dev/null || true; done
    ;;
*)
    echo "start or stop" >&2
    exit 2
    ;;
esac
