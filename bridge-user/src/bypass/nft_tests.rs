use super::{super::nl::push_attribute, *};

/// A chain as `nf_tables_fill_chain_info` lays it out.
fn chain(family: u8, hook: u32, devices: &[u8], policy: u32, rules: u32) -> Vec<u8> {
    let mut place = Vec::new();
    push_attribute(&mut place, NFTA_HOOK_HOOKNUM, &hook.to_be_bytes());
    push_attribute(&mut place, NFTA_HOOK_DEVS, devices);
    let mut bytes = vec![family, 0, 0, 0];
    push_attribute(&mut bytes, NFTA_CHAIN_TABLE, b"t\0");
    push_attribute(&mut bytes, NFTA_CHAIN_NAME, b"c\0");
    push_attribute(&mut bytes, NFTA_CHAIN_HOOK, &place);
    push_attribute(&mut bytes, NFTA_CHAIN_POLICY, &policy.to_be_bytes());
    push_attribute(&mut bytes, NFTA_CHAIN_USE, &rules.to_be_bytes());
    bytes
}

fn ruleset(messages: &[Vec<u8>]) -> Ruleset {
    let decode = |bytes: &Vec<u8>| Chain::decode((NFT_MSG_NEWCHAIN, bytes)).unwrap().unwrap();
    let chains = messages.iter().map(decode).filter(Chain::is_policy).collect();
    Ruleset { chains, flowtables: Vec::new() }
}

#[test]
fn a_chain_is_policy_by_its_rules_or_its_policy() {
    let set = ruleset(&[
        chain(family::BRIDGE, hook::FORWARD, &[], NF_ACCEPT, 0),
        chain(family::BRIDGE, hook::FORWARD, &[], NF_ACCEPT, 3),
        chain(family::BRIDGE, hook::PRE_ROUTING, &[], 0, 0),
        chain(family::BRIDGE, 1, &[], 0, 9),
    ]);
    assert_eq!(
        set.bridge().collect::<Vec<_>>(),
        ["nft table bridge t, chain c (hook forward)", "nft table bridge t, chain c (hook prerouting, policy drop)"]
    );
    assert_eq!(set.inet().count(), 0);
}

#[test]
fn br_netfilter_runs_three_hooks_of_ip_and_one_of_arp() {
    let families = [family::INET, family::IPV4, family::IPV6, family::ARP];
    let chains: Vec<_> =
        families.iter().flat_map(|family| (0..6).map(|hook| chain(*family, hook, &[], NF_ACCEPT, 1))).collect();
    let set = ruleset(&chains);
    assert_eq!(set.inet().count(), 3 * 3 + 1);
    assert_eq!(set.bridge().count(), 0);
}

#[test]
fn devices_match_by_name_or_by_prefix() {
    let mut devices = Vec::new();
    push_attribute(&mut devices, NFTA_DEVICE_NAME, b"eth0\0");
    push_attribute(&mut devices, NFTA_DEVICE_NAME, b"tap");
    push_attribute(&mut devices, NFTA_DEVICE_PREFIX, b"veth\0");
    let set = ruleset(&[
        chain(family::NETDEV, hook::NETDEV_INGRESS, &devices, NF_ACCEPT, 1),
        chain(family::INET, hook::INET_INGRESS, &devices, NF_ACCEPT, 1),
        chain(family::NETDEV, 1, &devices, 0, 0),
    ]);
    for (name, ingress, egress) in [("eth0", 2, 1), ("eth01", 0, 0), ("tap7", 2, 1), ("vethx", 2, 1), ("br0", 0, 0)] {
        assert_eq!(set.on_device(name, Side::Ingress).count(), ingress, "{name}");
        assert_eq!(set.on_device(name, Side::Egress).count(), egress, "{name}");
    }
    assert_eq!(
        set.on_device("eth0", Side::Egress).next().as_deref(),
        Some("nft table netdev t, chain c (hook egress, policy drop)")
    );
}

#[test]
fn regular_chains_and_truncated_messages_are_told_apart() {
    let mut regular = vec![family::BRIDGE, 0, 0, 0];
    push_attribute(&mut regular, NFTA_CHAIN_NAME, b"c\0");
    assert_eq!(Chain::decode((NFT_MSG_NEWCHAIN, &regular)).unwrap(), None);

    let whole = chain(family::BRIDGE, hook::FORWARD, &[8, 0, 1, 0, b'a', 0, 0, 0], 1, 1);
    for end in 0..whole.len() {
        let _ = Chain::decode((NFT_MSG_NEWCHAIN, &whole[..end]));
        let _ = Flowtable::decode((NFT_MSG_NEWFLOWTABLE, &whole[..end]));
        let _ = decode_dormant_table((NFT_MSG_NEWTABLE, &whole[..end]));
    }
}

#[test]
fn what_the_kernel_does_not_say_counts_as_policy() {
    let mut place = Vec::new();
    push_attribute(&mut place, NFTA_HOOK_HOOKNUM, &hook::FORWARD.to_be_bytes());
    let mut bytes = vec![family::BRIDGE, 0, 0, 0];
    push_attribute(&mut bytes, NFTA_CHAIN_HOOK, &place);
    assert!(Chain::decode((NFT_MSG_NEWCHAIN, &bytes)).unwrap().unwrap().is_policy());
}
