#!/usr/bin/env python3
"""Records seeds for the fuzzer: what this kernel answers to the dumps that xbr makes, in a namespace of its own.

    unshare -n tests/fuzz/record.py FOLDER     (as root; needs ip, bridge, tc, nft)

Writes FOLDER/rtnetlink, FOLDER/bypass and FOLDER/clsact: one file for each message whose shape (type and tree of
attributes) no other has. Run it on several kernels (`cargo xtask vm --out FOLDER -- unshare -n … /out`).
"""
import hashlib, os, socket, struct, subprocess, sys

NETLINK_ROUTE, NETLINK_NETFILTER, NETLINK_GENERIC = 0, 12, 16
DUMP, ACK = 0x301, 5
DONE, ERROR = 3, 2

SETUP = """
ip link set lo up
ip link add br0 type bridge vlan_filtering 1 vlan_default_pvid 10 || ip link add br0 type bridge
ip link add br1 type bridge ageing_time 100 stp_state 1
ip link add p0 type veth peer name q0
ip link add p1 type veth peer name q1
ip link add p2 type veth peer name q2
ip link set p0 master br0
ip link set p1 master br0
ip link set p2 master br1
ip link set p1 type bridge_slave isolated on locked on learning off
ip link add mv0 link p2 type macvlan mode bridge
ip link add link p2 name p2.5 type vlan id 5
ip link set br0 up
ip link set br1 up
ip link set p0 up
ip link set q0 up
ip link set p1 up
ip link set q1 up
ip link set p2 up
bridge vlan add dev p0 vid 20-30
bridge vlan add dev p0 vid 40 untagged
bridge vlan add dev p1 vid 10 pvid untagged
bridge vlan set dev p0 vid 40 state blocking
bridge fdb add 02:00:00:00:00:01 dev p0 master static
bridge fdb add 02:00:00:00:00:02 dev p1 master dynamic vlan 10
bridge fdb add 02:00:00:00:00:03 dev p2 master sticky
bridge fdb add 02:00:00:00:00:04 dev p2 master extern_learn
tc qdisc replace dev p0 root tbf rate 10mbit burst 10kb latency 50ms
tc qdisc add dev p0 clsact
tc qdisc add dev p1 ingress
tc filter add dev p0 ingress matchall action drop
tc filter add dev p0 egress protocol ip u32 match ip dst 10.0.0.1 police rate 1mbit burst 10k drop
tc filter add dev p1 ingress protocol ip flower dst_ip 10.0.0.1 action mirred egress redirect dev p2
nft add table bridge t
nft add chain bridge t f { type filter hook forward priority 0 ; policy drop ; }
nft add rule bridge t f counter
nft add chain bridge t regular
nft add table inet u { flags dormant ; }
nft add chain inet u f { type filter hook forward priority 0 ; }
nft add table netdev v
nft add chain netdev v i { type filter hook ingress devices = { p0, p1 } priority 0 ; }
nft add flowtable inet u ft { hook ingress priority 0 ; devices = { p0, p1 } ; }
"""


def dump(protocol, kind, payload, flags=DUMP):
    """The messages of an answer, headers included."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.bind((0, 0))
        sock.settimeout(5)
        sock.send(struct.pack("=IHHII", 16 + len(payload), kind, flags, 7, 0) + payload)
        while True:
            datagram = sock.recv(1 << 17)
            while datagram:
                length, kind, _, _, _ = struct.unpack_from("=IHHII", datagram)
                # The port id of this socket is of no interest.
                yield datagram[:12] + bytes(4) + datagram[16:length]
                if kind in (DONE, ERROR):
                    return
                datagram = datagram[(length + 3) & ~3:]


def shape(bytes_, depth=0):
    """The tree of attribute types, as far as the bytes look like one."""
    tree, at = [], 0
    while at + 4 <= len(bytes_):
        length, kind = struct.unpack_from("=HH", bytes_, at)
        if length < 4 or at + length > len(bytes_):
            return None
        inner = shape(bytes_[at + 4:at + length], depth + 1) if length > 8 and depth < 4 else None
        tree.append((kind & 0x3fff, inner))
        at += (length + 3) & ~3
    return tuple(tree) if at >= len(bytes_) else None


def attribute(kind, value):
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def main(folder):
    for line in filter(None, SETUP.splitlines()):
        subprocess.run(["sh", "-c", line], check=False, stderr=subprocess.DEVNULL)
    seen = set()

    def keep(target, prefix, header, messages):
        os.makedirs(os.path.join(folder, target), exist_ok=True)
        for message in messages:
            kind = struct.unpack_from("=H", message, 4)[0]
            key = (target, prefix, kind, shape(message[16 + header:]))
            if key in seen:
                continue
            seen.add(key)
            data = prefix + message
            name = hashlib.sha256(data).hexdigest()[:16]
            with open(os.path.join(folder, target, name), "wb") as file:
                file.write(data)

    index = {name: number for number, name in socket.if_nameindex()}
    bridge = struct.pack("=BBHI", 7, 0, 0, 0)
    tcmsg = lambda device, parent: struct.pack("=BBHiIII", 0, 0, 0, device, 0, parent, 0)
    keep("rtnetlink", b"", 16, dump(NETLINK_ROUTE, 18, bytes(16)))
    keep("rtnetlink", b"", 16, dump(NETLINK_ROUTE, 18, struct.pack("=BBHiII", 7, 0, 0, 0, 0, 0)))
    keep("rtnetlink", b"", 8, dump(NETLINK_ROUTE, 114, bridge))
    keep("rtnetlink", b"", 12, dump(NETLINK_ROUTE, 30, bridge + bytes(4)))
    qdiscs = list(dump(NETLINK_ROUTE, 38, tcmsg(0, 0)))
    filters = [
        message
        for device in ("p0", "p1")
        for parent in (0xFFFFFFF2, 0xFFFFFFF3)
        for message in dump(NETLINK_ROUTE, 46, tcmsg(index[device], parent))
    ]
    for target, prefix in (("rtnetlink", b""), ("clsact", b""), ("bypass", b"t")):
        keep(target, prefix, 20, qdiscs + filters)
    for command in (1, 4, 23):
        keep("bypass", b"n", 4, dump(NETLINK_NETFILTER, 10 << 8 | command, bytes(4)))
    for family in (7, 2):
        for hook in (0, 2, 4):
            request = bytes([family, 0, 0, 0]) + attribute(1, struct.pack(">I", hook))
            keep("bypass", b"h", 4, dump(NETLINK_NETFILTER, 12 << 8, request))
    family = list(dump(NETLINK_GENERIC, 16, bytes([3, 1, 0, 0]) + attribute(2, b"netdev\0"), ACK))
    keep("bypass", b"f", 4, family)
    at = family[0].find(struct.pack("=HH", 6, 1))
    if at > 0:
        number = struct.unpack_from("=H", family[0], at + 4)[0]
        keep("bypass", b"f", 4, dump(NETLINK_GENERIC, number, bytes([1, 1, 0, 0])))


main(sys.argv[1])
