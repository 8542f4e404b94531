//! A real `etcd` and `kube-apiserver` in their own network namespace. The proxies of a bed reach it by a management network,
//! so nothing listens outside of the namespaces.
//!
//! ```text
//! cp 172.31.255.1 ──┬── mgmt px0 172.31.255.11
//!                   └── mgmt px1 172.31.255.12 ...
//! ```
//!
//! No controllers run: [`Plane::delete_namespace`] deletes a namespace, and [`Plane::add_node`] creates a node. A plane is
//! always removed completely: when it is dropped, when the test process is killed, and if it is in a `static`.
#![allow(dead_code, reason = "every test binary compiles the whole plane and uses only a part of it")]

pub(crate) mod access;
pub(crate) mod audit;
pub(crate) mod deployed;
mod guard;
pub(crate) mod http;
pub(crate) mod objects;
pub(crate) mod programs;

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::bed::netns::Netns;
use crate::bed::wait::{eventually, until};
use crate::bed::{Bed, wire};

pub(crate) use objects::Resource;

/// The address of the API server for the nodes of the bed.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 31, 255, 1);
/// The same address as a URL.
pub(crate) const URL: &str = "https://172.31.255.1:6443";
/// The address of etcd, on the loopback of the plane's namespace.
const ETCD: &str = "http://127.0.0.1:2379";

/// The time limit for a start. It is long, because several planes share few cores.
const START: Duration = Duration::from_mins(4);
/// The time limit for a graceful end. The API server waits until the last watch over HTTP/1.1 has ended by itself, which is 25
/// s for a watch of an agent.
const END: Duration = Duration::from_mins(3);

/// A running API server and the programs and files that it needs.
#[derive(Debug)]
pub(crate) struct Plane {
    // Fields are dropped in this order.
    apiserver: Mutex<Option<Process>>,
    _etcd: Process,
    netns: Netns,
    folder: TempDir,
    _guard: guard::Guard,
}

impl Plane {
    /// A plane for the proxies of a bed, with the CRD, the RBAC rules, the admission policy and the namespace of this project.
    pub(crate) fn new(bed: &Bed) -> Self {
        let plane = Self::bare(bed);
        plane.install();
        plane
    }

    /// The same without the objects of this project, which [`Plane::install`] creates.
    pub(crate) fn bare(bed: &Bed) -> Self {
        Self::with(Some(bed), &[])
    }

    /// A plane that no node reaches, for tests of the API alone.
    pub(crate) fn alone() -> Self {
        let plane = Self::with(None, &[]);
        plane.install();
        plane
    }

    /// A plane without the objects of this project, whose API server has additional options.
    pub(crate) fn with(bed: Option<&Bed>, options: &[&str]) -> Self {
        static PLANES: AtomicU32 = AtomicU32::new(0);
        // This may take minutes. It comes first, so that nothing else has to wait for it.
        programs::folder();
        let netns = Netns::create(PLANES.fetch_add(1, Ordering::Relaxed), "cp");
        let folder = tempfile::Builder::new().prefix("pf-plane-").tempdir().expect("a temporary folder can be made");
        let guard = guard::Guard::over(&netns, folder.path());
        connect(&netns, bed);
        let etcd = start_etcd(&netns, folder.path());
        prepare(folder.path());
        fs::write(folder.path().join("options"), options.join("\n")).expect("the plane's folder can be written");
        let plane = Self { apiserver: Mutex::new(None), _etcd: etcd, netns, folder, _guard: guard };
        plane.start();
        plane.kubeconfig("admin", access::ADMIN);
        plane
    }

    /// Applies the objects of `deploy/` and `crds/`, and waits until the API serves forwards.
    pub(crate) fn install(&self) {
        self.apply(&deployed::list(&[deployed::access(), deployed::definitions()].concat()));
        self.wait_served();
    }

    /// Connects a proxy again after its reboot.
    pub(crate) fn reconnect(&self, bed: &Bed, index: usize) {
        self.netns.unplug(&format!("px{index}"));
        connect_proxy(&self.netns, bed, index);
    }

    /// Starts the API server again with its previous data and certificate, and waits until it is ready.
    pub(crate) fn start(&self) {
        let mut apiserver = self.apiserver();
        assert!(apiserver.is_none(), "the API server runs already");
        let process = start_apiserver(&self.netns, self.folder.path());
        let running = apiserver.insert(process);
        let mut ended = None;
        // At the first start, there is no CA to trust until the API server has created its certificate.
        let ready = eventually(START, || {
            ended = running.child.try_wait().expect("a child can be waited for");
            ended.is_some() || (self.keep_authority() && self.send_one(&http::Request::get("/readyz")).done())
        });
        assert!(ready && ended.is_none(), "the API server is not ready ({ended:?})\n{}", self.log());
    }

    /// Stops the API server gracefully (SIGTERM): it answers 429 for a moment and ends its watches after two seconds. From
    /// then on, connections are refused.
    pub(crate) fn stop(&self) {
        let mut process = self.apiserver().take().expect("the API server runs");
        process.signal(Signal::TERM);
        let ended = until(END, || process.child.try_wait().expect("a child can be waited for"));
        assert!(ended.is_some(), "the API server did not end after SIGTERM\n{}", self.log());
    }

    /// Kills the API server (SIGKILL).
    pub(crate) fn kill(&self) {
        drop(self.apiserver().take().expect("the API server runs"));
    }

    /// Stops the process of the API server (SIGSTOP): connections are accepted, but nothing answers.
    pub(crate) fn freeze(&self) {
        self.apiserver().as_ref().expect("the API server runs").signal(Signal::STOP);
    }

    /// Lets a frozen API server continue.
    pub(crate) fn thaw(&self) {
        self.apiserver().as_ref().expect("the API server runs").signal(Signal::CONT);
    }

    /// Makes etcd forget every older revision, after one write. A request for the changes since an older revision then gets
    /// 410. A running API server still has them in its watch cache, so stop it before and start it afterwards.
    pub(crate) fn compact(&self) {
        let etcd = |path: &str, body| {
            let peer = http::Peer { netns: &self.netns, url: ETCD, credentials: None };
            let answer = http::send(peer, &[http::Request::post(path, body)]).remove(0);
            assert!(answer.done(), "etcd {path}: {answer:?}");
            answer.body
        };
        // `/test` and `x` in base 64, as the JSON of etcd requires.
        let put = etcd("/v3/kv/put", serde_json::json!({"key": "L3Rlc3Q=", "value": "eA=="}));
        etcd("/v3/kv/compaction", serde_json::json!({"revision": put["header"]["revision"], "physical": true}));
    }

    /// Runs `kubectl` as the administrator. The caller checks the result.
    pub(crate) fn kubectl<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        self.kubectl_with(arguments, "")
    }

    /// The same with an input.
    pub(crate) fn kubectl_with<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>, input: &str) -> Output {
        let mut kubectl = self.netns.command(programs::folder().join("kubectl"));
        kubectl.args(arguments).env("KUBECONFIG", self.file("admin.kubeconfig")).env("HOME", self.folder.path());
        kubectl.env("KUBECACHEDIR", self.file("kubectl-cache"));
        kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut kubectl = kubectl.spawn().expect("nsenter is installed");
        // If kubectl ends without reading, its own error is more useful than the broken pipe.
        let _ = kubectl.stdin.take().expect("the input is piped").write_all(input.as_bytes());
        kubectl.wait_with_output().expect("kubectl can be waited for")
    }

    /// Sends calls as the administrator, in this order, over one connection.
    pub(crate) fn send(&self, requests: &[http::Request]) -> Vec<http::Response> {
        self.send_as(access::ADMIN, requests)
    }

    /// The same with a token.
    pub(crate) fn send_as(&self, token: &str, requests: &[http::Request]) -> Vec<http::Response> {
        let authority = self.authority();
        http::send(http::Peer { netns: &self.netns, url: URL, credentials: Some((&authority, token)) }, requests)
    }

    /// Sends one call as the administrator.
    pub(crate) fn send_one(&self, request: &http::Request) -> http::Response {
        self.send(std::slice::from_ref(request)).remove(0)
    }

    /// The CA certificate of the API server, as PEM.
    pub(crate) fn authority(&self) -> PathBuf {
        self.file("ca.crt")
    }

    /// The network namespace of the plane.
    pub(crate) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The errors in the log of the API server.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.file("kube-apiserver.log")).unwrap_or_default();
        text.lines().filter(|line| line.starts_with('E') || line.starts_with('F')).fold(String::new(), |mut kept, line| {
            let _ = writeln!(kept, "{line}");
            kept
        })
    }

    /// The folder in which the programs of the control plane keep their files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file in the plane's folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn apiserver(&self) -> MutexGuard<'_, Option<Process>> {
        // After a start that panicked, the value is a process or `None`. Both are valid, so the poisoning is ignored.
        self.apiserver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores the CA of the certificate that the API server has created for itself: it is the last one in that file. Returns
    /// false if the file is not complete yet.
    fn keep_authority(&self) -> bool {
        let Ok(chain) = fs::read_to_string(self.file("certificates/apiserver.crt")) else { return false };
        let Some(last) =
            chain.rfind("-----BEGIN CERTIFICATE-----").filter(|_| chain.trim_end().ends_with("-----END CERTIFICATE-----"))
        else {
            return false;
        };
        fs::write(self.authority(), &chain[last..]).expect("the plane's folder can be written");
        true
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- errors of the API server\n{}", self.log());
        }
    }
}

/// A child process that is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts a program in a namespace. Its log is a file next to its data.
    pub(crate) fn start(mut command: Command, folder: &Path, name: &str) -> Self {
        let log = File::options().create(true).append(true).open(folder.join(format!("{name}.log")));
        let log = log.expect("the plane's folder can be written");
        // nsenter becomes the program by exec(2), so the child's pid is the program's pid.
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("nsenter is installed");
        Self { child }
    }

    /// Whether the process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child that was not waited for has its pid");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Creates the management network.
fn connect(netns: &Netns, bed: Option<&Bed>) {
    netns.ip_batch([
        "link add mgmt type bridge".to_owned(),
        format!("addr add {ADDRESS}/24 dev mgmt"),
        "link set mgmt up".to_owned(),
    ]);
    if let Some(bed) = bed {
        (0..bed.proxies.len()).for_each(|index| connect_proxy(netns, bed, index));
    }
}

fn connect_proxy(netns: &Netns, bed: &Bed, index: usize) {
    let (proxy, port) = (&bed.proxies[index].netns, format!("px{index}"));
    wire((proxy, "mgmt"), (netns, &port));
    netns.ip(&format!("link set {port} master mgmt"));
    proxy.ip(&format!("addr add {}/24 dev mgmt", proxy_address(index)));
}

/// The management address of the proxy with this index.
pub(crate) fn proxy_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(172, 31, 255, 11 + u8::try_from(index).expect("a bed has few proxies"))
}

fn start_etcd(netns: &Netns, folder: &Path) -> Process {
    let mut etcd = netns.command(programs::folder().join("etcd"));
    etcd.arg("--data-dir").arg(folder.join("etcd"));
    etcd.args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD]);
    etcd.args(["--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380"]);
    // The data need not survive a crash of the machine.
    etcd.args(["--initial-cluster", "default=http://127.0.0.1:2380", "--unsafe-no-fsync", "--log-level", "warn"]);
    Process::start(etcd, folder, "etcd")
}

/// Creates the files that the API server reads.
fn prepare(folder: &Path) {
    access::make_key(&folder.join("sa.key"));
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("the plane's folder can be written");
    write("tokens.csv", &access::tokens());
    write("audit-policy.yaml", audit::POLICY);
}

fn start_apiserver(netns: &Netns, folder: &Path) -> Process {
    let mut apiserver = netns.command(programs::folder().join("kube-apiserver"));
    for (option, file) in [
        ("cert-dir", "certificates"),
        ("service-account-key-file", "sa.key"),
        ("service-account-signing-key-file", "sa.key"),
        ("token-auth-file", "tokens.csv"),
        ("audit-policy-file", "audit-policy.yaml"),
        ("audit-log-path", "audit.log"),
    ] {
        apiserver.arg(format!("--{option}={}", folder.join(file).display()));
    }
    apiserver.arg(format!("--etcd-servers={ETCD}")).arg(format!("--advertise-address={ADDRESS}"));
    apiserver.arg(format!("--service-account-issuer={}", access::ISSUER));
    apiserver.args(["--bind-address=0.0.0.0", "--secure-port=6443", "--authorization-mode=Node,RBAC"]);
    apiserver.args(["--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none", "--allow-privileged=true"]);
    // With an open watch, a graceful end takes two seconds with the second of these options, and a minute without it.
    apiserver.args(["--kubelet-preferred-address-types=InternalIP", "--shutdown-send-retry-after=true"]);
    apiserver.args(fs::read_to_string(folder.join("options")).unwrap_or_default().lines());
    Process::start(apiserver, folder, "kube-apiserver")
}
