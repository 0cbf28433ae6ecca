# Machines of their own for nodes of one test: network namespaces joined by a bridge. Sourced after
# cluster.bash; needs DIR, where the network is, when nodes are started.

LAN="hippo-lan-$$"
# Of nodes that run, by number.
declare -A ON_LAN=()

# begin_lan SCRIPT: a bridge in a namespace of its own; ends the script where that is not possible.
begin_lan() {
    local not="$1: NOT RUN,"
    [ "$(id -u)" = 0 ] || { echo "$not it needs root for network namespaces"; exit 0; }
    command -v ip >/dev/null || { echo "$not ip is missing (apt-get install iproute2)"; exit 0; }
    ip netns add "$LAN" 2>/dev/null || { echo "$not network namespaces are not allowed here"; exit 0; }
    add_bridge lan
}

# add_bridge NAME
add_bridge() {
    ip netns exec "$LAN" ip link add "$1" type bridge
    ip netns exec "$LAN" ip link set "$1" up
}

# add_machine MACHINE: a namespace with eth0, plugged into the first bridge.
add_machine() {
    ip netns add "$LAN-$1"
    ip link add "v$1" netns "$LAN" type veth peer name eth0 netns "$LAN-$1"
    plug "$1" lan
    in_node "$1" ip link set lo up
    in_node "$1" ip link set eth0 up
}

# plug MACHINE BRIDGE: takes its cable from one bridge to another.
plug() { ip netns exec "$LAN" ip link set "v$1" master "$2" up; }

# in_node MACHINE COMMAND...
in_node() { local machine=$1; shift; ip netns exec "$LAN-$machine" "$@"; }

start_on() {
    # Not through in_node: a function in the background is a shell of its own, and would be $!.
    ip netns exec "$LAN-$1" "$BIN/hippo" start --config "$DIR/net/node-$1/node.toml" \
        >>"$DIR/net/node-$1/log" 2>&1 &
    ON_LAN[$1]=$!
}

# stop_on NODE SIGNAL
stop_on() {
    kill "-$2" "${ON_LAN[$1]}"
    wait "${ON_LAN[$1]}" 2>/dev/null || true
    unset "ON_LAN[$1]"
}

# Kills what runs there and takes the machines away.
end_lan() {
    local name names
    names=$(ip netns list | cut -d' ' -f1 | grep "^$LAN" || true)
    {
        for name in $names; do ip netns pids "$name" | xargs -r kill -9 || true; done
        wait || true
        for name in $names; do ip netns del "$name" || true; done
    } 2>/dev/null
}
