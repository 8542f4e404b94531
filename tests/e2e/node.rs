//! A real node: a proxy of the bed with its own mounts, host paths and cgroups, in which containerd, the kubelet and, on one
//! node, kube-proxy run.
//!
//! The node has its own folders for `/run`, `/var/lib` and `/var/log`. It shares everything else with the machine.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::bed::kernel::Variant;
use crate::bed::netns::{must, output};
use crate::bed::wait::{eventually, until};
use crate::bed::{Bed, Proxy};
use crate::image::{self, PAUSE};
use crate::plane::{Plane, Process, access, programs, proxy_address};

/// The time limit for the start or the end of a program of a node.
const PATIENCE: Duration = Duration::from_mins(5);
/// The folder of static pods.
const STATIC_PODS: &str = "/var/lib/kubelet/manifests";
/// The socket of containerd.
const SOCKET: &str = "/run/containerd/containerd.sock";

/// How packets for Services are handled on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Services {
    /// By kube-proxy, with iptables.
    KubeProxy,
    /// By the network, as with a CNI that replaces kube-proxy.
    Network,
}

/// A running node.
pub(crate) struct Node {
    /// Its name.
    pub(crate) name: String,
    /// The iptables that its kubelet and kube-proxy use.
    pub(crate) variant: Variant,
    services: Services,
    index: usize,
    folder: PathBuf,
    kube_proxy: Option<Process>,
    kubelet: Option<Process>,
    containerd: Option<Process>,
    /// The process that holds the mounts of the node.
    holder: Option<Child>,
}

impl Node {
    /// Prepares the node of a proxy. Nothing runs yet.
    pub(crate) fn new(bed: &Bed, index: usize, variant: Variant, services: Services) -> Self {
        let folder = bed.proxies[index].files().join("node");
        for part in ["run", "lib/kubelet/manifests", "log", "cni", "bin"] {
            fs::create_dir_all(folder.join(part)).expect("the proxy's folder can be written");
        }
        let name = format!("px{index}");
        let mut node =
            Self { name, variant, services, index, folder, kube_proxy: None, kubelet: None, containerd: None, holder: None };
        node.choose_iptables();
        node.configure();
        node.hold(bed);
        node
    }

    /// Starts containerd with the images of the tests, then kubelet and kube-proxy.
    pub(crate) fn start(&mut self, bed: &Bed, plane: &Plane) {
        self.start_containerd(bed);
        for archive in image::archives() {
            self.import(bed, &archive);
        }
        self.start_kubelet(bed, plane);
    }

    /// The same after [`Node::power_on`]. The images are still there.
    pub(crate) fn start_again(&mut self, bed: &Bed, plane: &Plane) {
        self.start_containerd(bed);
        self.start_kubelet(bed, plane);
    }

    fn start_containerd(&mut self, bed: &Bed) {
        self.containerd = Some(self.process(bed, "containerd", &["--config".into(), self.file("containerd.toml")]));
        let answers = || output(self.command(bed, "ctr").args(["--address", SOCKET, "version"])).status.success();
        assert!(eventually(PATIENCE, answers), "containerd on {} never answered\n{}", self.name, self.log("containerd"));
    }

    /// Loads an image into the node, as an administrator without a registry does.
    pub(crate) fn import(&self, bed: &Bed, archive: &Path) {
        must(self.command(bed, "ctr").args(["--address", SOCKET, "-n", "k8s.io", "images", "import"]).arg(archive));
    }

    /// Gives an image of the node another name.
    pub(crate) fn tag(&self, bed: &Bed, image: &str, other: &str) {
        must(self.command(bed, "ctr").args(["--address", SOCKET, "-n", "k8s.io", "images", "tag", image, other]));
    }

    fn start_kubelet(&mut self, bed: &Bed, plane: &Plane) {
        let address = proxy_address(self.index);
        let kubeconfig = plane.kubeconfig(&format!("kubelet-{}", self.name), &access::node_token(&self.name));
        let kubelet = programs::cluster_folder().join("kubelet");
        let options = [
            format!("--config={}", self.file("kubelet.json")),
            format!("--kubeconfig={}", kubeconfig.path.display()),
            format!("--hostname-override={}", self.name),
            format!("--node-ip={address}"),
            "--root-dir=/var/lib/kubelet".to_owned(),
            "--cert-dir=/var/lib/kubelet/pki".to_owned(),
            "--v=1".to_owned(),
        ];
        // The kubelet ends if containerd does not serve the CRI yet. Service managers start it again, and so does this.
        let healthy = eventually(PATIENCE, || {
            if self.kubelet.as_mut().is_none_or(Process::has_ended) {
                self.kubelet = Some(self.process(bed, &kubelet, &options));
            }
            output(self.command(bed, "curl").args(["--silent", "--fail", "http://127.0.0.1:10248/healthz"])).status.success()
        });
        assert!(healthy, "the kubelet on {} never became healthy", self.name);
        if self.services == Services::KubeProxy {
            let kubeconfig = plane.kubeconfig(&format!("kube-proxy-{}", self.name), access::ADMIN);
            let kube_proxy = programs::cluster_folder().join("kube-proxy");
            let options = [
                format!("--kubeconfig={}", kubeconfig.path.display()),
                format!("--hostname-override={}", self.name),
                "--proxy-mode=iptables".to_owned(),
                "--conntrack-max-per-core=0".to_owned(),
                "--v=1".to_owned(),
            ];
            self.kube_proxy = Some(self.process(bed, kube_proxy, &options));
        }
    }

    /// Ends all programs of the node at once. Its disk, with the images, stays; `/run` does not.
    pub(crate) fn power_off(&mut self, bed: &Bed) {
        self.halt(bed);
        // `/run` is empty at boot.
        let run = self.folder.join("run");
        let _ = fs::remove_dir_all(&run);
        fs::create_dir_all(&run).expect("the proxy's folder can be written");
        self.configure();
    }

    /// Mounts the node's folders again, after its namespace was created again.
    pub(crate) fn power_on(&mut self, bed: &Bed) {
        self.hold(bed);
    }

    /// Ends all programs of the node at once.
    fn halt(&mut self, bed: &Bed) {
        self.kube_proxy = None;
        self.kubelet = None;
        self.containerd = None;
        let proxy = &bed.proxies[self.index];
        // The shims and the containers survive containerd.
        assert!(eventually(PATIENCE, || { proxy.netns.kill_all() == 0 }), "something on {} cannot be killed", self.name);
        if let Some(mut holder) = self.holder.take() {
            let _ = holder.kill();
            let _ = holder.wait();
        }
        remove_cgroups(&self.cgroup());
    }

    /// A command on the node, with its mounts.
    pub(crate) fn command(&self, bed: &Bed, program: impl AsRef<Path>) -> Command {
        let holder = self.holder.as_ref().expect("the node is on").id();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.proxy(bed).netns.path().display())).arg(format!("--mount=/proc/{holder}/ns/mnt"));
        command.arg("--").arg(program.as_ref()).stdin(Stdio::null());
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", self.file("bin")));
        command.env_remove("XTABLES_LOCKFILE");
        command
    }

    /// Runs a command on the node, which must succeed. Returns its output.
    pub(crate) fn run(&self, bed: &Bed, command: &str) -> String {
        let mut words = command.split_whitespace();
        must(self.command(bed, words.next().expect("a command has a name")).args(words))
    }

    /// What kubelet and kube-proxy still have to write into the kernel. Each creates its canary chains in every table once its
    /// rules are there, and kube-proxy reports its last sync.
    pub(crate) fn unsettled(&self, bed: &Bed) -> Vec<String> {
        let mut missing = Vec::new();
        for (family, save) in [("IPv4", "iptables"), ("IPv6", "ip6tables")] {
            let rules = self.run(bed, &format!("{save}-{}-save", self.variant));
            let mut wanted = vec![(":KUBE-IPTABLES-HINT ", 1), (":KUBE-KUBELET-CANARY ", 3)];
            if family == "IPv4" {
                wanted.push(("block incoming localnet connections", 1));
            }
            if self.services == Services::KubeProxy {
                wanted.extend([(":KUBE-PROXY-CANARY ", 3), (":KUBE-SERVICES ", 2)]);
                missing.extend(self.unsynced(bed, family));
            }
            let lacks = |(words, count): &(&str, usize)| rules.matches(words).count() < *count;
            missing.extend(wanted.iter().filter(|each| lacks(each)).map(|(words, count)| format!("{family} {words}x{count}")));
        }
        missing
    }

    /// What kube-proxy still has to do for a family, by its own metrics.
    fn unsynced(&self, bed: &Bed, family: &str) -> Option<String> {
        let text = output(self.command(bed, "curl").args(["--silent", "http://127.0.0.1:10249/metrics"])).stdout;
        let text = String::from_utf8_lossy(&text);
        let time = |what: &str| -> Option<f64> {
            let series = format!("kubeproxy_sync_proxy_rules_last_{what}timestamp_seconds{{ip_family=\"{family}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&series))?.parse().ok()
        };
        let (synced, queued) = (time(""), time("queued_"));
        (synced.is_none() || synced <= queued).then(|| format!("{family}: last sync {synced:?}, last asked for {queued:?}"))
    }

    /// A pod that the kubelet starts from a file, without the API server.
    pub(crate) fn put_static_pod(&self, name: &str, manifest: &str) {
        fs::write(self.folder.join("lib/kubelet/manifests").join(name), manifest).expect("the node's folder can be written");
    }

    /// The log of a program of the node.
    pub(crate) fn log(&self, program: &str) -> String {
        fs::read_to_string(self.folder.join(format!("{program}.log"))).unwrap_or_default()
    }

    /// The logs of the containers of the node.
    pub(crate) fn container_logs(&self) -> String {
        let mut text = String::new();
        let mut folders = vec![self.folder.join("log/pods")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    folders.push(entry.path());
                } else {
                    let log = fs::read_to_string(entry.path()).unwrap_or_default();
                    let _ = write!(text, "--- {}\n{log}", entry.path().display());
                }
            }
        }
        text
    }

    fn proxy<'a>(&self, bed: &'a Bed) -> &'a Proxy {
        &bed.proxies[self.index]
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn cgroup(&self) -> String {
        format!("/pf-{}-{}", std::process::id(), self.folder.parent().and_then(Path::file_name).unwrap_or_default().display())
    }

    fn process(&self, bed: &Bed, program: impl AsRef<Path>, options: &[String]) -> Process {
        let name = program.as_ref().file_name().expect("a program has a name").display().to_string();
        let mut command = self.command(bed, program);
        command.args(options);
        Process::start(command, &self.folder, &name)
    }

    /// Makes the plain names of the programs lead to the variant of the node, as the alternatives of Debian do.
    fn choose_iptables(&self) {
        for tool in ["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"] {
            let link = self.folder.join("bin").join(tool);
            symlink(format!("/usr/sbin/xtables-{}-multi", self.variant), link).expect("the proxy's folder can be written");
        }
    }

    fn configure(&self) {
        let write = |name: &str, text: &str| fs::write(self.folder.join(name), text).expect("the node's folder can be written");
        write("run/resolv.conf", "nameserver 127.0.0.1\n");
        write(
            "containerd.toml",
            &format!(include_str!("containerd.toml"), pause = PAUSE, socket = SOCKET, cni = self.file("cni")),
        );
        write("cni/10-bridge.conflist", &json!({
            "cniVersion": "0.4.0", "name": "pods",
            "plugins": [{"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.9.0/24"}]]}}],
        }).to_string());
        let kubelet = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            // Only the hosts of the test can reach it, so logs and exec need no certificates.
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
            "staticPodPath": STATIC_PODS, "fileCheckFrequency": "1s", "syncFrequency": "5s",
            "resolvConf": "/run/resolv.conf",
            "cgroupDriver": "cgroupfs", "cgroupRoot": self.cgroup(), "cgroupsPerQOS": false, "enforceNodeAllocatable": [],
            "failCgroupV1": false, "failSwapOn": false, "evictionHard": {}, "localStorageCapacityIsolation": false,
            "imageGCHighThresholdPercent": 100, "oomScoreAdj": 0,
            "shutdownGracePeriod": "0s",
        });
        write("kubelet.json", &kubelet.to_string());
    }

    /// Creates the mounts of the node, and a process that holds them.
    fn hold(&mut self, bed: &Bed) {
        let binds = [("run", "/run"), ("lib", "/var/lib"), ("log", "/var/log")];
        let binds = binds.map(|(part, place)| format!("mount --bind {} {place}", self.file(part)));
        // containerd sees the volumes of the kubelet; programs outside of the node do not.
        let script = format!("{} && mount --make-rshared / && echo held && exec sleep infinity", binds.join(" && "));
        let mut holder = Command::new("nsenter");
        holder.arg(format!("--net={}", self.proxy(bed).netns.path().display()));
        holder.args(["--", "unshare", "--mount", "--propagation", "private", "sh", "-c", &script]);
        let mut holder = holder.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("nsenter is installed");
        let mut said = [0; 5];
        let read = std::io::Read::read_exact(holder.stdout.as_mut().expect("the output is piped"), &mut said);
        assert!(read.is_ok(), "the mounts of {} cannot be made", self.name);
        self.holder = Some(holder);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let kubelet = self.log("kubelet");
            let last: Vec<&str> = kubelet.lines().filter(|line| line.starts_with('E')).collect();
            eprintln!("--- last errors of the kubelet on {}\n{}", self.name, last[last.len().saturating_sub(15)..].join("\n"));
            eprintln!("--- containers on {}\n{}", self.name, self.container_logs());
        }
        // The bed is dropped after its nodes and kills the other processes of the namespace. Then the cgroups are empty.
        for process in [self.kube_proxy.take(), self.kubelet.take(), self.containerd.take()].into_iter().flatten() {
            process.signal(Signal::KILL);
        }
        if let Some(mut holder) = self.holder.take() {
            let _ = holder.kill();
            let _ = holder.wait();
        }
        remove_cgroups(&self.cgroup());
    }
}

/// Kills the processes of a cgroup of the node, and removes it with everything below it, in every hierarchy (cgroups(7),
/// version 1).
fn remove_cgroups(name: &str) {
    let hierarchies: Vec<PathBuf> =
        fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path().join(&name[1..])).collect();
    let gone = || {
        for root in &hierarchies {
            for folder in below(root) {
                for pid in fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines() {
                    if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                        let _ = rustix::process::kill_process(pid, Signal::KILL);
                    }
                }
                let _ = fs::remove_dir(folder);
            }
        }
        hierarchies.iter().all(|root| !root.exists())
    };
    until(PATIENCE, || gone().then_some(()));
}

/// A folder and everything below it, the deepest first.
fn below(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .flat_map(|entry| below(&entry.path()))
        .collect();
    found.push(root.to_owned());
    found
}

/// The output of a command, from both streams.
pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
