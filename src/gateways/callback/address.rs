//! Which addresses webhooks may reach: those that the public internet routes, and no other.
//!
//! Of IPv4 the special networks are refused by name (IANA's registry, RFC 6890); of IPv6 everything is refused that is not
//! global unicast (2000::/3), and of that the networks which carry an IPv4 address or serve a special purpose. Metadata
//! services answer on link-local or private addresses mostly; those that do not are named.
//!
//! Deliberately absent: exceptions for DNS64. In a network that reaches IPv4 only through 64:ff9b::/96 no webhook leaves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network, the length of its prefix in bits, and what it is.
type Net<A> = (A, u32, &'static str);

const V4: &[Net<Ipv4Addr>] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8, "unspecified"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, PRIVATE),
    (Ipv4Addr::new(100, 100, 100, 200), 32, METADATA), // Alibaba Cloud
    (Ipv4Addr::new(100, 64, 0, 0), 10, "carrier-grade NAT"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, LOOPBACK),
    (Ipv4Addr::new(168, 63, 129, 16), 32, METADATA), // Azure: a public address, answered by the host
    (Ipv4Addr::new(169, 254, 169, 254), 32, METADATA), // nearly all
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, PRIVATE),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "IETF protocols"), // Oracle's metadata too
    (Ipv4Addr::new(192, 0, 2, 0), 24, DOCUMENTATION),
    (Ipv4Addr::new(192, 31, 196, 0), 24, "AS112"),
    (Ipv4Addr::new(192, 52, 193, 0), 24, "AMT"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "6to4 relay"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, PRIVATE),
    (Ipv4Addr::new(192, 175, 48, 0), 24, "AS112"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "benchmarking"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, DOCUMENTATION),
    (Ipv4Addr::new(203, 0, 113, 0), 24, DOCUMENTATION),
    (Ipv4Addr::new(224, 0, 0, 0), 4, MULTICAST),
    (Ipv4Addr::new(255, 255, 255, 255), 32, "broadcast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];
const V6: &[Net<Ipv6Addr>] = &[
    (Ipv6Addr::LOCALHOST, 128, LOOPBACK),
    (Ipv6Addr::UNSPECIFIED, 128, "unspecified"),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, "IPv4-mapped"),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 0), 96, "IPv4-compatible"),
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96, "NAT64"),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48, "NAT64"),
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128, METADATA), // AWS
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128, METADATA),  // Google Cloud
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, PRIVATE),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, "link-local"),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, MULTICAST),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, "Teredo"),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "IETF protocols"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, DOCUMENTATION),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, "6to4"),
    (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48, "AS112"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, DOCUMENTATION),
];
const GLOBAL_UNICAST: Net<Ipv6Addr> = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3, "");

const DOCUMENTATION: &str = "documentation";
const LOOPBACK: &str = "loopback";
const METADATA: &str = "metadata service";
const MULTICAST: &str = "multicast";
const PRIVATE: &str = "private";

/// Why webhooks must not reach `address`, or `None` where they may. `private` also allows loopback and private networks.
pub(super) fn forbidden(address: IpAddr, private: bool) -> Option<&'static str> {
    let reason = match address {
        IpAddr::V4(address) => V4.iter().find(|net| within_v4(address, net)).map(|(_, _, reason)| *reason),
        IpAddr::V6(address) => forbidden_v6(address),
    };
    reason.filter(|reason| !(private && [LOOPBACK, PRIVATE].contains(reason)))
}

fn forbidden_v6(address: Ipv6Addr) -> Option<&'static str> {
    let named = V6.iter().find(|net| within_v6(address, net)).map(|(_, _, reason)| *reason);
    named.or_else(|| (!within_v6(address, &GLOBAL_UNICAST)).then_some("not global unicast"))
}

fn within_v4(address: Ipv4Addr, (net, prefix, _): &Net<Ipv4Addr>) -> bool {
    (address.to_bits() ^ net.to_bits()).leading_zeros() >= *prefix
}

fn within_v6(address: Ipv6Addr, (net, prefix, _): &Net<Ipv6Addr>) -> bool {
    (address.to_bits() ^ net.to_bits()).leading_zeros() >= *prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str, private: bool) -> Option<&'static str> {
        forbidden(text.parse().unwrap(), private)
    }

    #[test]
    fn the_first_and_the_last_address_of_every_special_network_are_refused_and_their_neighbours_are_not() {
        // First, last, why, and whether the addresses right before and behind are public.
        let nets = "\
            0.0.0.0 0.255.255.255 unspecified - 1.0.0.0\n\
            10.0.0.0 10.255.255.255 private 9.255.255.255 11.0.0.0\n\
            100.64.0.0 100.127.255.255 carrier-grade~NAT 100.63.255.255 100.128.0.0\n\
            127.0.0.0 127.255.255.255 loopback 126.255.255.255 128.0.0.0\n\
            169.254.0.0 169.254.255.255 link-local 169.253.255.255 169.255.0.0\n\
            172.16.0.0 172.31.255.255 private 172.15.255.255 172.32.0.0\n\
            192.0.0.0 192.0.0.255 IETF~protocols 191.255.255.255 192.0.1.0\n\
            192.0.2.0 192.0.2.255 documentation 192.0.1.255 192.0.3.0\n\
            192.88.99.0 192.88.99.255 6to4~relay 192.88.98.255 192.88.100.0\n\
            192.168.0.0 192.168.255.255 private 192.167.255.255 192.169.0.0\n\
            198.18.0.0 198.19.255.255 benchmarking 198.17.255.255 198.20.0.0\n\
            198.51.100.0 198.51.100.255 documentation 198.51.99.255 198.51.101.0\n\
            203.0.113.0 203.0.113.255 documentation 203.0.112.255 203.0.114.0\n\
            224.0.0.0 239.255.255.255 multicast 223.255.255.255 -\n\
            240.0.0.0 255.255.255.254 reserved - -\n\
            255.255.255.255 255.255.255.255 broadcast - -\n\
            168.63.129.16 168.63.129.16 metadata~service 168.63.129.15 168.63.129.17\n\
            169.254.169.254 169.254.169.254 metadata~service - -\n\
            100.100.100.200 100.100.100.200 metadata~service - -\n\
            ::1 ::1 loopback - -\n\
            :: :: unspecified - -\n\
            ::2 ::ffff:ffff IPv4-compatible - -\n\
            ::ffff:0.0.0.0 ::ffff:255.255.255.255 IPv4-mapped - -\n\
            64:ff9b:: 64:ff9b::ffff:ffff NAT64 - -\n\
            64:ff9b:1:: 64:ff9b:1:ffff:ffff:ffff:ffff:ffff NAT64 - -\n\
            100:: 100::ffff:ffff:ffff:ffff not~global~unicast - -\n\
            2001:: 2001:0:ffff:ffff:ffff:ffff:ffff:ffff Teredo 2000:ffff::1 -\n\
            2001:1:: 2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff IETF~protocols - 2001:200::\n\
            2001:db8:: 2001:db8:ffff:ffff:ffff:ffff:ffff:ffff documentation 2001:db7::1 2001:db9::\n\
            2002:: 2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff 6to4 2001:ffff::1 2003::\n\
            3fff:: 3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff documentation 3ffe::1 3fff:1000::\n\
            5f00:: 5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff not~global~unicast - -\n\
            fc00:: fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff private - -\n\
            fd00:ec2::254 fd00:ec2::254 metadata~service - -\n\
            fe80:: febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff link-local - -\n\
            fec0:: feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff not~global~unicast - -\n\
            ff00:: ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff multicast - -";
        for row in nets.lines() {
            let cells: Vec<&str> = row.split_whitespace().collect();
            let reason = cells[2].replace('~', " ");
            for special in &cells[..2] {
                assert_eq!(judged(special, false), Some(reason.as_str()), "{special}");
            }
            for neighbour in cells[3..].iter().filter(|cell| **cell != "-") {
                assert_eq!(judged(neighbour, false), None, "{neighbour}");
            }
        }
    }

    #[test]
    fn the_development_switch_opens_this_machine_and_private_networks_and_nothing_else() {
        for open in ["127.0.0.1", "::1", "10.0.0.7", "172.20.0.1", "192.168.1.1", "fd12::1", "93.184.216.34"] {
            assert_eq!(judged(open, true), None, "{open}");
        }
        for shut in [
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "fd00:ec2::254",
            "fe80::1",
            "0.0.0.0",
            "::",
            "::ffff:127.0.0.1",
            "224.0.0.1",
            "100.64.0.1",
            "64:ff9b::7f00:1",
        ] {
            assert!(judged(shut, true).is_some(), "{shut}");
        }
    }
}
