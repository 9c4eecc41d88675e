# Second stage, on the host's files: runs the job with its output on the virtual serial ports.
b=/run/busybox
echo 1 >/run/xbr-vm/started
$b ip link set lo up
$b hostname xbr-vm
set -- /dev/vport*p1
out=$1
err=${out%1}2

if [ -e /run/xbr-vm/tty ]; then
    $b setsid -c /bin/sh -c '. /run/xbr-vm/tty; . /run/xbr-vm/job' <>/dev/hvc0 >&0 2>&1
    echo $? >/run/xbr-vm/code
else
    # Pipes between, so that the job sees neither a terminal nor a device that opens once only.
    $b mkfifo /run/out /run/err
    $b cat </run/out >"$out" &
    cat_out=$!
    $b cat </run/err >"$err" &
    cat_err=$!
    /bin/sh /run/xbr-vm/job </dev/null >/run/out 2>/run/err
    echo $? >/run/xbr-vm/code
    # Something that the job left running may hold the pipes open for ever.
    { $b sleep 3; kill $cat_out $cat_err; } 2>/dev/null &
    wait $cat_out $cat_err
fi
echo 1 >/proc/sys/kernel/sysrq
echo b >/proc/sysrq-trigger
