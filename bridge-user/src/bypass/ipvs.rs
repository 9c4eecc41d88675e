//! Services of the kernel's load balancer (IPVS), whose netfilter hooks change the answers of their servers.

use std::{fs, io};

/// The services of the namespace of the thread that reads it, each with its servers below; three lines of headings.
const LIST: &str = "/proc/thread-self/net/ip_vs";
const HEADINGS: usize = 3;

/// One line for all services; none where there are none, or no IPVS.
pub(super) fn services() -> io::Result<Option<String>> {
    match fs::read_to_string(LIST) {
        Ok(list) => Ok(describe(&list)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn describe(list: &str) -> Option<String> {
    let services = list.lines().skip(HEADINGS).filter(|line| !line.trim_start().starts_with("->")).count();
    (services > 0).then(|| format!("{services} IPVS services"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_counted_and_servers_are_not() {
        let headings = "IP Virtual Server version 1.2.1 (size=4096)\n\
            Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n";
        assert_eq!(describe(headings), None);
        let one = format!("{headings}TCP  0A000001:0050 rr\n  -> 0A000002:0050      Masq    1      0          0\n");
        assert_eq!(describe(&one).as_deref(), Some("1 IPVS services"));
        assert_eq!(describe(""), None);
    }
}
