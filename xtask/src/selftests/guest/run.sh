#!/bin/bash
# Inside the virtual machine: runs the kernel's tests one by one, each without and with xbr.
# usage: run.sh FOLDER-OF-TESTS FOLDER-OF-TOOLS MODES TEST=SECONDS ...      MODES: "plain xbr", or one of the two
# Environment: XBR_BIN, the program under test. Results go to /out: STEM.MODE.log, .code, .seconds, .daemons/NAME.json
suite=$1 tools=$2 modes=$3
shift 3
here=$(dirname "$(readlink -f "$0")")
group=/sys/fs/cgroup/selftest

# Emulation is slow: the suite's own knobs for slow machines. PING_COUNT stays: some tests count the packets.
export KSFT_MACHINE_SLOW=yes PING_TIMEOUT=4 PING_COUNT=10 WAIT_TIME=3
PATH=$tools/sbin:$tools/bin:$PATH
SELFTEST_IP=$(command -v ip) SELFTEST_UNSHARE=$(command -v unshare) SELFTEST_MKTEMP=$(command -v mktemp)
export SELFTEST_IP SELFTEST_UNSHARE SELFTEST_MKTEMP
export PATH=$here/bin:$PATH
mkdir -p "$group"
modprobe -a vrf vxlan dummy sch_ingress cls_flower cls_matchall act_gact act_mirred 2>/dev/null

# Older suites have no devices of their own accord. This is on the overlay: the files of the machine stay as they are.
{
    echo "declare -A NETIFS"
    for n in 1 2 3 4 5 6 7 8 9 10; do echo "NETIFS[p$n]=veth$((n - 1))"; done
    echo "NETIF_CREATE=yes NETIF_TYPE=veth"
} >"$suite/forwarding/forwarding.config"

# Everything that the test left running is in its control group.
reap() {
    echo 1 >"$group/cgroup.kill" 2>/dev/null
    while [ -s "$group/cgroup.procs" ]; do sleep 0.05; done
}

run() {
    local test=$1 limit=$2 mode=$3 stem=${1//\//-}
    local space=st-$mode out=/out/${stem%.sh}.$mode
    export SELFTEST_DAEMONS=$out.daemons SELFTEST_HOOK=
    mkdir -p "$SELFTEST_DAEMONS"
    # A namespace of its own, which takes with it what the test leaves behind.
    ip netns add "$space" && ip -n "$space" link set lo up || return
    [ "$mode" = xbr ] && SELFTEST_HOOK=$here/daemon
    local began=$EPOCHREALTIME
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        cd "$suite/$(dirname "$test")" &&
            exec timeout -k 10 "$limit" ip netns exec "$space" "$here/inside" "./$(basename "$test")"
    ) </dev/null >"$out.log" 2>&1
    echo $? >"$out.code"
    echo "$began $EPOCHREALTIME" | awk '{ printf "%.1f\n", $2 - $1 }' >"$out.seconds"
    "$here/daemon" stop-all
    reap
    # Those of a test that was killed, too: the next run would find them in its way.
    ip -all netns delete
}

for job in "$@"; do
    for mode in $modes; do
        run "${job%=*}" "${job#*=}" "$mode"
        echo "done ${job%=*} $mode"
    done
done
