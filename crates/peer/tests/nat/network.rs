//! Namespaces: two home networks behind NAT, and a public one with a peer and room for a relay.
//!
//! ```text
//!   b 192.168.1.2 -- router 1 (masquerade) 10.77.2.2 --+
//!                                                       +-- net -- a 10.77.1.2
//!   c 192.168.2.2 -- router 2 (masquerade) 10.77.3.2 --+
//! ```

use std::process::{Child, Command, Output, Stdio};

/// The namespaces, by their letter; removed when dropped.
pub struct Network {
    prefix: String,
}

pub const A: &str = "a";
pub const B: &str = "b";
pub const C: &str = "c";
const NET: &str = "net";

const ROUTER_RULES: &str = "
table ip nat {
  chain after { type nat hook postrouting priority srcnat; oifname wan masquerade; }
}
table ip filter {
  chain in { type filter hook input priority filter; policy accept; iifname wan ct state != { established, related } drop; }
  chain through { type filter hook forward priority filter; policy drop; ct state { established, related } accept; iifname lan accept; }
}";

/// Counts what passes between the two routers without a detour, and can break all TCP.
const NET_RULES: &str = "
table ip filter {
  counter punched { }
  chain through {
    type filter hook forward priority filter; policy accept;
    ip saddr 10.77.2.2 ip daddr 10.77.3.2 ip protocol udp counter name punched
  }
  chain cuts { type filter hook forward priority filter + 1; policy accept; }
}";

/// What is missing for namespaces with NAT on this machine, if anything.
pub fn missing() -> Option<String> {
    let usable = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !usable("ip", &["-V"]) {
        return Some("the command ip (package iproute2)".into());
    }
    if !usable("nft", &["--version"]) {
        return Some("the command nft (package nftables)".into());
    }
    let name = format!("peerless-probe-{}", std::process::id());
    let made = usable("ip", &["netns", "add", &name]);
    let filters = made && usable("ip", &["netns", "exec", &name, "nft", "add", "table", "ip", "nat"]);
    let _ = Command::new("ip").args(["netns", "delete", &name]).output();
    (!filters).then(|| "the right to make network namespaces with nftables in them (root)".into())
}

fn run(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

impl Network {
    pub fn build() -> Self {
        let network = Self { prefix: format!("pl{}", std::process::id()) };
        for space in [A, B, C, NET, "r1", "r2"] {
            network.ip(&["netns", "add", &network.name(space)]);
            network.inside(space, "ip link set lo up");
        }
        network.link((NET, "toa", "10.77.1.1/24"), (A, "wan", "10.77.1.2/24"));
        network.inside(A, "ip route add default via 10.77.1.1");
        network.inside(NET, "sysctl -qw net.ipv4.ip_forward=1");
        for (number, (router, home)) in [("r1", B), ("r2", C)].into_iter().enumerate() {
            let (wan, lan) = (number + 2, number + 1);
            let end = |host| format!("10.77.{wan}.{host}/24");
            network.link((NET, &format!("to{router}"), &end(1)), (router, "wan", &end(2)));
            let end = |host| format!("192.168.{lan}.{host}/24");
            network.link((router, "lan", &end(1)), (home, "eth", &end(2)));
            network.inside(router, "sysctl -qw net.ipv4.ip_forward=1");
            network.inside(router, &format!("ip route add default via 10.77.{wan}.1"));
            network.inside(home, &format!("ip route add default via 192.168.{lan}.1"));
            network.rules(router, ROUTER_RULES);
        }
        network.rules(NET, NET_RULES);
        network
    }

    fn name(&self, space: &str) -> String {
        format!("{}{space}", self.prefix)
    }

    fn ip(&self, args: &[&str]) {
        let mut command = Command::new("ip");
        command.args(args);
        run(command);
    }

    /// A command line for a namespace.
    pub fn command(&self, space: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(space), program]);
        command
    }

    fn inside(&self, space: &str, line: &str) -> String {
        let mut words = line.split(' ');
        let mut command = self.command(space, words.next().unwrap());
        command.args(words);
        String::from_utf8(run(command).stdout).unwrap()
    }

    fn rules(&self, space: &str, rules: &str) {
        let mut command = self.command(space, "nft");
        command.arg(rules);
        run(command);
    }

    fn link(&self, one: (&str, &str, &str), other: (&str, &str, &str)) {
        let names = [self.name(one.0), self.name(other.0)];
        let ends = ["type", "veth", "peer", "name", other.1, "netns", &names[1]];
        let mut args = vec!["link", "add", one.1, "netns", &names[0]];
        args.extend(ends);
        self.ip(&args);
        for (space, device, address) in [one, other] {
            self.inside(space, &format!("ip addr add {address} dev {device}"));
            self.inside(space, &format!("ip link set {device} up"));
        }
    }

    /// Drops everything of a protocol that passes between the networks, or lets it through again.
    pub fn cut(&self, protocol: Option<&str>) {
        self.rules(NET, "flush chain ip filter cuts");
        if let Some(protocol) = protocol {
            self.rules(NET, &format!("add rule ip filter cuts ip protocol {protocol} drop"));
        }
    }

    /// Packets that went from router 1 to router 2 without a detour.
    pub fn punched(&self) -> u64 {
        let listed = self.inside(NET, "nft list counter ip filter punched");
        listed.split_whitespace().skip_while(|word| *word != "packets").nth(1).unwrap().parse().unwrap()
    }

    pub fn spawn(&self, space: &str, program: &str, args: &[&str]) -> Process {
        let mut command = self.command(space, program);
        Process(command.args(args).stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for space in [A, B, C, NET, "r1", "r2"] {
            let _ = Command::new("ip").args(["netns", "delete", &self.name(space)]).output();
        }
    }
}

/// A process that is killed when dropped.
pub struct Process(Child);

impl Process {
    pub fn ended_well(&mut self) -> Option<bool> {
        self.0.try_wait().unwrap().map(|status| status.success())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
