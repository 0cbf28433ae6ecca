# Functions that the scripts share: builds, networks of node processes, and their end.
# Sourced, never run. The caller has `set -euo pipefail` and `cd`s to the repository's root.

TARGET_DIR="${CARGO_TARGET_DIR:-target}"
# Where the binaries are; build_release sets it unless the environment did.
BIN="${HIPPO_BIN:-}"
# Ports are drawn below the range from which the kernel gives ephemeral ones.
PORT_LOW=20000
PORT_HIGH=31000
READY_SECONDS=30
STOP_SECONDS=6

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }
usage_error() { say "${0##*/}: $*"; say "Try ${0##*/} --help"; exit 2; }

# value_of FLAG COUNT: ends with a usage error when no value follows a flag.
value_of() { [ "$2" -ge 2 ] || usage_error "$1 needs a value"; }

whole_number() {
    case "$2" in '' | *[!0-9]*) usage_error "$1 $2: expected a whole number" ;; esac
}

# A path that the caller gave, as seen from the repository's root. CALLER is where the caller was.
from_caller() {
    case "$1" in
        /*) echo "$1" ;;
        *) if [ "$CALLER" = "$PWD" ]; then echo "$1"; else echo "$CALLER/$1"; fi ;;
    esac
}

# What a build and a run need, each with its remedy.
check_build_tools() {
    [ "$(uname -s)" = Linux ] || die "needs Linux 5.19 or newer; this is $(uname -s)"
    local release major minor
    release=$(uname -r)
    major=${release%%.*}
    minor=${release#*.}
    minor=${minor%%[!0-9]*}
    if [ "$major" -lt 5 ] || { [ "$major" -eq 5 ] && [ "$minor" -lt 19 ]; }; then
        say "note: kernel $release is older than 5.19: io_uring lacks what is used here, the sendmmsg backend takes over"
    fi
    if [ "$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || echo 0)" != 0 ]; then
        say "note: io_uring is disabled here (sysctl kernel.io_uring_disabled): the sendmmsg backend takes over"
    fi
    if [ -n "$BIN" ]; then return; fi
    # rustup installs here; a shell opened before the installation does not know it.
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH="$HOME/.cargo/bin:$PATH"
    fi
    command -v cargo >/dev/null || die "cargo is missing. Get Rust 1.91 or newer:
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y && . \"\$HOME/.cargo/env\""
    local version
    version=$(rustc --version | awk '{print $2}')
    case "$version" in
        1.[0-9] | 1.[0-9].* | 1.[0-8][0-9].* | 1.90.*)
            die "rustc $version is too old, 1.91 or newer is needed: rustup update stable" ;;
    esac
    command -v cc >/dev/null || die "a C compiler is missing (the allocator is C):
  Debian, Ubuntu: sudo apt-get install -y gcc libc6-dev     Fedora: sudo dnf install -y gcc"
}

# Builds the two programs in release and sets BIN. HIPPO_BIN=DIR takes ready binaries instead.
build_release() {
    if [ -n "$BIN" ]; then
        [ -x "$BIN/hippo" ] && [ -x "$BIN/hippo-load" ] ||
            die "HIPPO_BIN=$BIN does not hold hippo and hippo-load"
        return
    fi
    say "building in release (the first time takes a few minutes) ..."
    cargo build --release --quiet -p node -p loadgen ||
        die "the build failed; see above"
    BIN="$TARGET_DIR/release"
}

# True if nothing on this machine is bound to the port (hexadecimal column of /proc/net).
port_is_free() {
    local hex
    hex=$(printf ':%04X' "$1")
    ! awk -v port="$hex" 'FNR > 1 && substr($2, length($2) - 4) == port { found = 1 }
        END { exit !found }' /proc/net/udp /proc/net/tcp /proc/net/udp6 /proc/net/tcp6 2>/dev/null
}

# free_base_port NODES: nodes listen on base+i, their admin endpoints on base+100+i.
free_base_port() {
    local nodes=$1 base i try
    for ((try = 0; try < 200; try++)); do
        base=$((PORT_LOW + (RANDOM * 32768 + RANDOM) % (PORT_HIGH - PORT_LOW - 200)))
        for ((i = 0; i < nodes; i++)); do
            port_is_free $((base + i)) && port_is_free $((base + 100 + i)) || continue 2
        done
        echo "$base"
        return
    done
    die "no $nodes free ports between $PORT_LOW and $PORT_HIGH"
}

# The processors that this shell may use, as `hippo testnet --cores` takes them.
own_cores() { awk '/^Cpus_allowed_list:/ { print $2 }' /proc/self/status; }

# make_network DIR NODES [testnet flags]. Nodes are pinned round robin to the processors at hand:
# unpinned, four nodes on two cores take half as long again to answer.
make_network() {
    local dir=$1 nodes=$2 port
    shift 2
    case " $* " in
        *" --cores "* | *" --no-pin "*) ;;
        *) set -- --cores "$(own_cores)" "$@" ;;
    esac
    port=$(free_base_port "$nodes") || exit 1
    "$BIN/hippo" testnet --nodes "$nodes" --output "$dir" --base-port "$port" "$@" >"$dir.testnet.log" 2>&1 || {
        cat "$dir.testnet.log" >&2
        rm -f "$dir.testnet.log"
        die "hippo testnet failed; see above"
    }
    rm -f "$dir.testnet.log"
    mkdir -p "$dir/run"
}

count_nodes() {
    local dir=$1 count=0
    while [ -e "$dir/node-$count/node.toml" ]; do count=$((count + 1)); done
    echo "$count"
}

# Port of a node's admin endpoint, from its node.toml.
admin_port() {
    sed -n '/^\[admin\]/,/^\[/s/^address *= *"[^"]*:\([0-9]*\)".*/\1/p' "$1/node-$2/node.toml"
}

pid_file() { echo "$1/run/node-$2.pid"; }

# node_pid DIR I: prints the process of node I if it runs. A process id that now belongs to another
# program does not count.
node_pid() {
    local pid config
    pid=$(cat "$(pid_file "$1" "$2")" 2>/dev/null) || return 1
    config="$1/node-$2/node.toml"
    tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF -- "$config" || return 1
    echo "$pid"
}

# start_node DIR I [start flags]: in the background, detached from this shell's signals.
start_node() {
    local dir=$1 node=$2
    shift 2
    mkdir -p "$dir/run"
    setsid "$BIN/hippo" start --config "$dir/node-$node/node.toml" "$@" \
        </dev/null >>"$dir/node-$node/hippo.log" 2>&1 &
    echo $! >"$(pid_file "$dir" "$node")"
    # The shell need not report how it ended.
    disown
}

# http_status PORT PATH: the three digits, empty when nobody answers.
http_status() {
    timeout 2 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
        printf "GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n" "$2" >&3
        read -r _ code _ <&3 && echo "$code"' _ "$1" "$2" 2>/dev/null || true
}

# status_field DIR I NAME: a number of the node's status; empty when it does not answer.
status_field() {
    timeout 1 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
        printf "GET /status.json HTTP/1.0\r\nHost: localhost\r\n\r\n" >&3
        tr -d "\n" <&3 | grep -o "\"$2\": *[0-9]*" | head -n 1 | grep -o "[0-9]*$"' \
        _ "$(admin_port "$1" "$2")" "$3" 2>/dev/null || true
}

# wait_node DIR I PATH: until the endpoint answers 200.
wait_node() {
    local dir=$1 node=$2 path=$3 port deadline=$((SECONDS + READY_SECONDS))
    port=$(admin_port "$dir" "$node")
    [ -n "$port" ] || die "no [admin] address in $dir/node-$node/node.toml"
    until [ "$(http_status "$port" "$path")" = 200 ]; do
        if ! node_pid "$dir" "$node" >/dev/null; then
            sleep 0.2 # its last words
            say "node $node ended at start; its log ($dir/node-$node/hippo.log) ends with:"
            tail -n 15 "$dir/node-$node/hippo.log" >&2
            return 1
        fi
        if [ $SECONDS -ge $deadline ]; then
            say "node $node does not answer $path after ${READY_SECONDS}s; its log ends with:"
            tail -n 15 "$dir/node-$node/hippo.log" >&2
            return 1
        fi
        sleep 0.1
    done
}

wait_all() {
    local dir=$1 path=$2 node nodes
    nodes=$(count_nodes "$dir")
    for ((node = 0; node < nodes; node++)); do wait_node "$dir" "$node" "$path" || return 1; done
}

# kill_node DIR I: kill -9, and waits until it is gone.
kill_node() {
    local pid
    pid=$(node_pid "$1" "$2") || return 0
    kill -KILL "$pid" 2>/dev/null || true
    while node_pid "$1" "$2" >/dev/null; do sleep 0.02; done
    rm -f "$(pid_file "$1" "$2")"
}

# stop_network DIR: SIGTERM to all, SIGKILL to what is left after STOP_SECONDS.
stop_network() {
    local dir=$1 node nodes pid deadline=$((SECONDS + STOP_SECONDS)) alive
    nodes=$(count_nodes "$dir")
    for ((node = 0; node < nodes; node++)); do
        if pid=$(node_pid "$dir" "$node"); then kill -TERM "$pid" 2>/dev/null || true; fi
    done
    while :; do
        alive=0
        for ((node = 0; node < nodes; node++)); do
            if node_pid "$dir" "$node" >/dev/null; then alive=$((alive + 1)); fi
        done
        if [ $alive -eq 0 ]; then break; fi
        if [ $SECONDS -ge $deadline ]; then
            say "note: $alive nodes did not stop within ${STOP_SECONDS}s of SIGTERM and were killed"
            for ((node = 0; node < nodes; node++)); do kill_node "$dir" "$node"; done
            break
        fi
        sleep 0.05
    done
    for ((node = 0; node < nodes; node++)); do rm -f "$(pid_file "$dir" "$node")"; done
}

# wrong_replies DIR: how many a load generator's result tells of.
wrong_replies() {
    grep -o '"wrong_reply": *[0-9]*' "$1/result.json" 2>/dev/null | grep -o '[0-9]*$' || echo unknown
}

# run_child COMMAND...: runs it so that a signal to this script reaches it; CHILD holds its id.
CHILD=""
run_child() {
    local code=0
    "$@" &
    CHILD=$!
    wait "$CHILD" || code=$?
    CHILD=""
    return $code
}

stop_child() {
    if [ -n "$CHILD" ]; then
        kill -TERM "$CHILD" 2>/dev/null || true
        wait "$CHILD" 2>/dev/null || true
        CHILD=""
    fi
}
