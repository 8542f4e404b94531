//! The programs on the proxies: the agent, rules written by hand, haproxy, nginx, or nothing.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::netns::Netns;
use crate::shared::shapes::Forward;
use crate::shared::{linear, manifest};

/// Who forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// The agent, with a folder of manifests.
    Ours,
    /// The rules that an administrator would write.
    Linear,
    /// haproxy in TCP mode.
    Haproxy,
    /// nginx with its module `stream`.
    Nginx,
    /// Nobody: the client connects to the upstream directly.
    Routing,
}

impl Peer {
    /// The name in figures.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Linear => "linear",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx stream",
            Self::Routing => "plain routing",
        }
    }

    /// Starts it on a proxy, with a folder for its files. Returns its process, if it has one.
    pub(crate) fn start(self, netns: &Netns, folder: &Path, backend: &str, forwards: &[Forward]) -> Option<Running> {
        fs::create_dir_all(folder).expect("a temporary folder can be written");
        match self {
            Self::Ours => Some(Running::start(agent(netns, folder, backend, forwards), folder)),
            Self::Haproxy => Some(Running::start(haproxy(netns, folder, forwards), folder)),
            Self::Nginx => Some(Running::start(nginx(netns, folder, forwards), folder)),
            Self::Linear => {
                let restore = if backend == "legacy" { "iptables-legacy-restore" } else { "iptables-nft-restore" };
                linear::restore(&mut netns.command(restore), &linear::table(forwards));
                None
            }
            Self::Routing => None,
        }
    }
}

/// A running program. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    fn start(mut command: Command, folder: &Path) -> Self {
        let log = fs::File::create(folder.join("log")).expect("a temporary folder can be written");
        Self(command.stdout(Stdio::null()).stderr(log).spawn().expect("nsenter is installed"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The workers of nginx end with their namespace.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn agent(netns: &Netns, folder: &Path, backend: &str, forwards: &[Forward]) -> Command {
    let manifests = folder.join("manifests");
    fs::create_dir_all(&manifests).expect("a temporary folder can be written");
    let items: Vec<String> = forwards
        .iter()
        .enumerate()
        .map(|(index, forward)| manifest::object(&format!("f{index:05}"), forward).to_string())
        .collect();
    // JSON is YAML, and a file may have several documents.
    for (index, chunk) in items.chunks(500).enumerate() {
        fs::write(manifests.join(format!("{index}.yaml")), chunk.join("\n---\n")).expect("a temporary folder can be written");
    }
    let mut command = netns.command(env!("CARGO_BIN_EXE_portforward-operator"));
    command.arg("agent").arg("--manifests").arg(&manifests).arg("--status-file").arg(folder.join("status.json"));
    command.arg("--state-dir").arg(folder.join("state")).args(["--node-name", "proxy"]);
    command.args(if backend == "nftables" { ["--backend", backend] } else { ["--iptables", backend] });
    command.args(["--log-format", "text"]);
    command
}

fn haproxy(netns: &Netns, folder: &Path, forwards: &[Forward]) -> Command {
    let mut text = "global\n  nbthread 2\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  \
                    timeout server 60s\n"
        .to_owned();
    for (index, Forward { listen, upstream, .. }) in forwards.iter().enumerate() {
        let _ = writeln!(text, "listen f{index}\n  bind {listen}\n  server s {upstream}");
    }
    let file = folder.join("haproxy.cfg");
    fs::write(&file, text).expect("a temporary folder can be written");
    unlimited(netns, &["haproxy", "-db", "-f", &file.display().to_string()])
}

fn nginx(netns: &Netns, folder: &Path, forwards: &[Forward]) -> Command {
    let place = folder.display();
    let mut text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nuser root;\nworker_processes 2;\ndaemon off;\n\
         pid {place}/pid;\nerror_log {place}/error.log;\n\
         events {{ worker_connections 12000; }}\nstream {{\n"
    );
    for Forward { listen, upstream, .. } in forwards {
        let _ = writeln!(text, "server {{ listen {listen}; proxy_pass {upstream}; }}");
    }
    let file = folder.join("nginx.conf");
    fs::write(&file, text + "}\n").expect("a temporary folder can be written");
    unlimited(netns, &["nginx", "-c", &file.display().to_string()])
}

/// A command that may open as many files as the limit of the system allows.
fn unlimited(netns: &Netns, words: &[&str]) -> Command {
    let mut command = netns.command("sh");
    command.args(["-c", "ulimit -n \"$(ulimit -H -n)\" && exec \"$@\"", "sh"]).args(words);
    command
}
