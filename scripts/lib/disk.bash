# Disks of a node's own that forget, when their power is cut, what was not flushed. Sourced after
# cluster.bash; needs root.
#
# The disk is a file on a file system in a file: what the node writes to its ext4 lies in the page
# cache of the lower ext4, a volatile write cache, until the node flushes. Shutting the lower one
# down (EXT4_IOC_SHUTDOWN) drops that cache and the journals of both, and fails every later write.

# ioctl(2) EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH.
EXT4_SHUTDOWN=0x8004587D
NO_LOG_FLUSH=2
# Sparse files.
LOWER_SIZE=3G
DISK_SIZE=2G

check_disk_tools() {
    [ "$(id -u)" = 0 ] || die "a power cut takes mounts, and mounts take root"
    local tool
    for tool in mkfs.ext4 mount umount perl; do
        command -v "$tool" >/dev/null || die "$tool is missing. Debian, Ubuntu: apt-get install -y e2fsprogs mount perl-base"
    done
    [ -e /dev/loop-control ] || die "there are no loop devices here (/dev/loop-control): modprobe loop"
}

data_path() { echo "$1/node-$2/data"; }
lower_path() { echo "$1/node-$2/lower"; }

make_ext4() { truncate -s "$2" "$1" && mkfs.ext4 -q -F -N 4096 "$1"; }

# own_disk NET I: moves the data directory of node I to a disk of its own.
own_disk() {
    local data lower
    data=$(data_path "$1" "$2")
    lower=$(lower_path "$1" "$2")
    mkdir "$lower" && mv "$data" "$data.made" && mkdir "$data" &&
        make_ext4 "$lower.img" "$LOWER_SIZE" && mount -o loop "$lower.img" "$lower" &&
        make_ext4 "$lower/disk.img" "$DISK_SIZE" && mount -o loop "$lower/disk.img" "$data" &&
        rmdir "$data/lost+found" && cp -a --sparse=never "$data.made/." "$data" &&
        sync -f "$data" && sync -f "$lower" && rm -rf "$data.made"
}

# cut_power NET NODES: at one moment for all of them.
cut_power() {
    local node paths=()
    for ((node = 0; node < $2; node++)); do paths+=("$(lower_path "$1" "$node")"); done
    perl -e '
        my ($request, $flag, @paths) = @ARGV;
        my @open = map { open(my $file, "<", $_) or die "$_: $!\n"; $file } @paths;
        for my $file (@open) {
            my $flags = pack("L", $flag);
            ioctl($file, hex($request), $flags) or die "shutdown: $!\n";
        }' "$EXT4_SHUTDOWN" "$NO_LOG_FLUSH" "${paths[@]}"
}

# detach PATH: unmounts it, however long the kernel's writers take to let go.
detach() {
    local try
    for ((try = 0; try < 200; try++)); do
        mountpoint -q "$1" || return 0
        umount "$1" 2>/dev/null || sleep 0.05
    done
    say "cannot unmount $1"
    return 1
}

detach_disk() { detach "$(data_path "$1" "$2")" && detach "$(lower_path "$1" "$2")"; }

# power_again NET I: both file systems recover when they are mounted.
power_again() {
    local lower
    lower=$(lower_path "$1" "$2")
    detach_disk "$1" "$2" && mount -o loop "$lower.img" "$lower" &&
        mount -o loop "$lower/disk.img" "$(data_path "$1" "$2")"
}

# make_unsynced FILE: a library to preload, with which programs flush nothing.
make_unsynced() {
    cc -shared -fPIC -O1 -x c -o "$1" - <<'C'
int fsync(int file) { (void)file; return 0; }
int fdatasync(int file) { (void)file; return 0; }
C
}
