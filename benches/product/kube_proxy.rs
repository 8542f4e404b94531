//! kube-proxy on a node of the field: the peer that does the same job.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::bed::kernel::Variant;
use crate::field::{Field, node};
use crate::plane::access::ADMIN;
use crate::plane::{Process, programs};
use crate::shared::process::cpu;

/// The backends of kube-proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `--proxy-mode=nftables`.
    Nftables,
    /// `--proxy-mode=iptables`.
    Iptables,
}

impl Mode {
    /// Both modes.
    pub(crate) const ALL: [Self; 2] = [Self::Nftables, Self::Iptables];

    /// The option.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }

    /// The node on which it runs beside no other program.
    pub(crate) const fn own_node(self) -> usize {
        match self {
            Self::Nftables => 1,
            Self::Iptables => 2,
        }
    }
}

/// A running kube-proxy. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct KubeProxy {
    process: Process,
}

impl KubeProxy {
    /// Starts it on a node. In iptables mode it uses this variant.
    pub(crate) fn start(field: &Field, index: usize, mode: Mode, variant: Variant) -> Self {
        let folder = field.plane.file(&format!("kube-proxy-{index}"));
        let bin = folder.join("bin");
        fs::create_dir_all(&bin).expect("the plane's folder can be written");
        // The plain names lead to the variant, as the alternatives of Debian do.
        for tool in ["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"] {
            symlink(format!("/usr/sbin/xtables-{}-multi", variant.tools()), bin.join(tool))
                .expect("the plane's folder can be written");
        }
        let kubeconfig = field.plane.kubeconfig(&format!("kube-proxy-{index}"), ADMIN);
        let program = programs::cluster_folder().join("kube-proxy");
        let mut command = field.bed.proxies[index].command(&program.display().to_string());
        command.env("PATH", format!("{}:{}:/usr/sbin:/sbin", bin.display(), std::env::var("PATH").unwrap_or_default()));
        command.arg(format!("--kubeconfig={}", kubeconfig.path.display()));
        command.args([&format!("--hostname-override={}", node(index)), &format!("--proxy-mode={}", mode.name())]);
        // The source is translated too, as the forwards do.
        command.args(["--masquerade-all", "--conntrack-max-per-core=0", "--v=1"]);
        Self { process: Process::start(command, &folder, "kube-proxy") }
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Stops the process, so that it does nothing while something else is measured.
    pub(crate) fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it continue.
    pub(crate) fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Waits until it has used no CPU time for a moment, so that its sync has ended. Gives up at the limit.
    pub(crate) fn wait_quiet(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let (mut before, mut since) = (cpu(self.id()), Instant::now());
        while since.elapsed() < Duration::from_millis(400) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
            let now = cpu(self.id());
            if now > before + Duration::from_millis(10) {
                (before, since) = (now, Instant::now());
            }
        }
    }
}
