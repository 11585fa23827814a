//! A network on this machine for peers: each in a network namespace of its own, all plugged into a
//! switch that can be split in two. Needs root and `ip` (iproute2).
//!
//! A partition moves the ports of some peers to a second bridge. As with a cable that is cut between
//! two switches, nobody is told: links stay up, connections stay open, and packets get lost.
//!
//! The tests use this file, too: it depends on nothing else here.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail, ensure};

/// What the names of all namespaces made here begin with; the id of the process follows.
const PREFIX: &str = "peerless";
/// The interface of a peer in its namespace.
const PORT: &str = "port";
/// The bridges of the switch: all peers are on the first, those cut off on the second.
const BRIDGES: [&str; 2] = ["whole", "apart"];

static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// The namespaces of some peers, counted from 1. They are removed when this is dropped, and the
/// processes in them should be gone by then.
#[derive(Debug)]
pub struct Network {
    name: String,
    peers: usize,
}

impl Network {
    /// Makes namespaces for so many peers, at most 250.
    ///
    /// # Errors
    /// When `ip` is missing or not allowed to, with what it said.
    pub fn create(peers: usize) -> anyhow::Result<Self> {
        ensure!(peers <= 250, "{peers} peers do not fit into one network");
        sweep();
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let network = Self { name: format!("{PREFIX}-{}-{number}", std::process::id()), peers };
        let switch = network.switch();
        ip(&["netns", "add", &switch])?;
        for bridge in BRIDGES {
            ip(&["-n", &switch, "link", "add", bridge, "type", "bridge"])?;
            ip(&["-n", &switch, "link", "set", bridge, "up"])?;
        }
        for peer in 1..=peers {
            network.plug_in(peer)?;
        }
        Ok(network)
    }

    fn plug_in(&self, peer: usize) -> anyhow::Result<()> {
        let (switch, namespace, port) = (self.switch(), self.namespace(peer), format!("port{peer}"));
        ip(&["netns", "add", &namespace])?;
        ip(&["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", PORT, "netns", &namespace])?;
        ip(&["-n", &switch, "link", "set", &port, "master", BRIDGES[0], "up"])?;
        let address = format!("{}/24", self.address(peer));
        ip(&["-n", &namespace, "addr", "add", &address, "dev", PORT])?;
        ip(&["-n", &namespace, "link", "set", PORT, "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])
    }

    /// Words that run a command in a peer's namespace when they are put before it.
    pub fn wrapper(&self, peer: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.namespace(peer)].map(str::to_owned).into()
    }

    /// The address of a peer, which all others reach.
    pub fn address(&self, peer: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, u8::try_from(peer).unwrap_or(u8::MAX))
    }

    /// Cuts these peers off from the others, but not from each other.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn cut_off(&self, peers: &[usize]) -> anyhow::Result<()> {
        self.plug(peers, BRIDGES[1])
    }

    /// Lets everybody reach everybody again.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn heal(&self) -> anyhow::Result<()> {
        self.plug(&(1..=self.peers).collect::<Vec<_>>(), BRIDGES[0])
    }

    fn plug(&self, peers: &[usize], bridge: &str) -> anyhow::Result<()> {
        let switch = self.switch();
        peers.iter().try_for_each(|peer| ip(&["-n", &switch, "link", "set", &format!("port{peer}"), "master", bridge]))
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }

    /// The namespace of a peer.
    pub fn namespace(&self, peer: usize) -> String {
        format!("{}-{peer}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in (1..=self.peers).map(|peer| self.namespace(peer)).chain([self.switch()]) {
            // What is left is swept up by the next network.
            let _ = ip(&["netns", "del", &namespace]);
        }
    }
}

/// Removes the namespaces of processes that were killed before they could.
fn sweep() {
    let Ok(listed) = Command::new("ip").args(["netns", "list"]).output() else { return };
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-')?.split('-').next());
        let dead = |pid: u32| !std::path::Path::new(&format!("/proc/{pid}")).exists();
        if owner.and_then(|pid| pid.parse().ok()).is_some_and(dead) {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments).output().context("cannot run `ip` (iproute2)")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`ip {}` failed: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}
