//! Where addresses stand in the FDB table.

use bridge_common::{
    fdb::{BUCKET, Placing, buckets},
    mac::Mac,
    maps::FdbKey,
};

#[test]
fn addresses_that_follow_one_another_do_not_crowd() {
    const ENTRIES: u32 = 262_144;
    // With one product, half of these addresses found both of their buckets full.
    let placing = Placing::new([0x9b0e_03e8_3fd3_6db3, 0x3824_b362_5bc5_a191], buckets(ENTRIES));
    for which in 0..2 {
        let mut crowd = vec![0_u32; placing.buckets as usize];
        for low in 0..100_000_u32 {
            let [_, a, b, c] = low.to_be_bytes();
            let bucket = placing.bucket(which, FdbKey::new(1, Mac::new([2, 0, 0, a, b, c])));
            crowd[bucket as usize] += 1;
        }
        let in_crowds: u32 = crowd.iter().filter(|addresses| **addresses as usize > BUCKET).sum();
        assert!(in_crowds < 4000, "bucket {which}: {in_crowds} addresses in buckets that are too small for them");
    }
}
