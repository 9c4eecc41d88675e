#!/bin/busybox sh
# First process of the virtual machine. It has busybox and the modules that reach the host's files.
# From the kernel's command line, as environment: xbr_release, xbr_modules (the host's folder of them).
b=/bin/busybox

die() {
    echo "xbr-vm: $*" >/dev/console
    $b reboot -f
}

$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
    $b insmod "$module" || die "cannot load $module"
done

p9=trans=virtio,version=9p2000.L,msize=512000
$b mount -t 9p -o ro,$p9,cache=loose xbr-root /host || die "cannot mount the host's files"
$b mount -t tmpfs -o size=75% tmpfs /rw
$b mkdir /rw/upper /rw/work
$b mount -t overlay -o lowerdir=/host,upperdir=/rw/upper,workdir=/rw/work overlay /root || die "cannot stack the overlay"

for dir in proc sys dev; do
    $b mount --move /$dir /root/$dir
done
$b mkdir -p /root/dev/pts /root/dev/shm
$b mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /root/dev/pts
$b mount -t tmpfs tmpfs /root/dev/shm
$b mount -t tmpfs -o mode=755 tmpfs /root/run
$b mount -t bpf bpf /root/sys/fs/bpf
$b mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
$b mount -t debugfs debugfs /root/sys/kernel/debug
$b mount -t tracefs tracefs /root/sys/kernel/tracing
$b ln -s /proc/self/fd /root/dev/fd
$b ln -s /proc/self/fd/0 /root/dev/stdin
$b ln -s /proc/self/fd/1 /root/dev/stdout
$b ln -s /proc/self/fd/2 /root/dev/stderr

$b mkdir -p /root/run/lock /root/run/netns /root/run/xbr-vm /root/lib/modules/"$xbr_release"
$b mount --bind /host"$xbr_modules" /root/lib/modules/"$xbr_release"
$b mount -t 9p -o $p9,cache=none xbr-job /root/run/xbr-vm || die "cannot mount the job"
if [ -n "$xbr_out" ]; then
    $b mkdir -p /root/out
    $b mount -t 9p -o $p9,cache=none xbr-out /root/out || die "cannot mount the output folder"
fi
$b cp $b /root/run/busybox
exec $b switch_root /root /run/busybox sh /run/xbr-vm/main
