//! The agent as a process on a proxy of the bed, with a folder of manifests or an API server as its source.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::Proxy;
use super::kernel::Variant;
use super::netns::output;
pub(crate) use super::wait::PATIENCE;
use super::wait::{eventually, until};

/// The binary under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_portforward-operator");

/// A folder of manifests. The tests address each file by its name.
#[derive(Debug)]
pub(crate) struct Manifests {
    folder: PathBuf,
}

impl Manifests {
    /// Creates the empty folder `manifests` in the proxy's files.
    pub(crate) fn new(proxy: &Proxy) -> Self {
        let folder = proxy.files().join("manifests");
        fs::create_dir_all(&folder).expect("the proxy's folder can be written");
        Self { folder }
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes or replaces one file atomically: writes a new file and renames it over the old one.
    pub(crate) fn put(&self, file: &str, yaml: &str) {
        // Because of the suffix and the leading dot, this file does not count as a manifest.
        let new = self.folder.join(format!(".{file}.new"));
        fs::write(&new, yaml).expect("the folder can be written");
        fs::rename(&new, self.folder.join(file)).expect("a file can be renamed in its folder");
    }

    /// Removes one file.
    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

/// The options with which an agent is started.
#[derive(Clone, Debug)]
pub(crate) struct AgentOptions {
    /// `--iptables`.
    pub(crate) variant: Variant,
    /// `--node-name`.
    pub(crate) node_name: String,
    /// `--node-label`, each `key=value`.
    pub(crate) labels: Vec<String>,
    /// More arguments.
    pub(crate) extra: Vec<String>,
    /// A shell script that changes the agent's own mount namespace and then runs the agent by `exec "$@"`.
    pub(crate) mounts: Option<String>,
}

impl AgentOptions {
    /// The node `proxy` without labels.
    pub(crate) fn new(variant: Variant) -> Self {
        Self { variant, node_name: "proxy".to_owned(), labels: Vec::new(), extra: Vec::new(), mounts: None }
    }
}

/// A running agent. It is killed when this is dropped. If the test failed, its log is shown.
#[derive(Debug)]
pub(crate) struct Agent {
    process: Child,
    status_file: PathBuf,
    log_file: PathBuf,
    /// Where this agent's own lines begin in the log, in bytes.
    log_start: usize,
}

impl Agent {
    /// Starts the agent on a proxy. State and status are stored in the proxy's files and stay when the agent ends.
    pub(crate) fn start(proxy: &Proxy, manifests: &Manifests, options: &AgentOptions) -> Self {
        let status_file = proxy.files().join("status.json");
        // The status of an earlier agent must not be taken for the status of this one.
        let _ = fs::remove_file(&status_file);
        let mut source = vec!["--manifests".into(), manifests.folder().into(), "--status-file".into(), status_file.into()];
        source.extend(options.labels.iter().flat_map(|label| ["--node-label".into(), label.into()]));
        Self::spawn(proxy, options, &source)
    }

    /// Starts the agent on a proxy with a kubeconfig for an API server. Its state is stored in the proxy's files and stays
    /// when the agent ends. Its status is at the API server, and labels cannot be given as options.
    pub(crate) fn join(proxy: &Proxy, kubeconfig: &Path, options: &AgentOptions) -> Self {
        assert!(options.labels.is_empty(), "the labels of a node are the API server's");
        Self::spawn(proxy, options, &["--kubeconfig".into(), kubeconfig.into()])
    }

    fn spawn(proxy: &Proxy, options: &AgentOptions, source: &[OsString]) -> Self {
        let (status_file, log_file) = (proxy.files().join("status.json"), proxy.files().join("agent.log"));
        let log = File::options().create(true).append(true).open(&log_file).expect("the proxy's folder can be written");
        let log_start = fs::read_to_string(&log_file).map_or(0, |text| text.len());
        let mut command = match &options.mounts {
            None => proxy.command(PROGRAM),
            Some(script) => in_mounts(proxy, script),
        };
        command.arg("agent").args(source).args(["--node-name", &options.node_name]);
        command.arg("--state-dir").arg(state_folder(proxy));
        command.args(options.variant.options()).args(["--log-format", "text"]);
        if options.variant == Variant::Nftables && !options.extra.iter().any(|option| option.starts_with("--nftables-table")) {
            // So that tests can damage the rules.
            command.arg("--nftables-table=open");
        }
        // nsenter becomes the agent by exec(2), so the child's pid is the agent's pid.
        let process = command.args(&options.extra).stdout(Stdio::null()).stderr(log).spawn().expect("nsenter is installed");
        Self { process, status_file, log_file, log_start }
    }

    /// The warnings and errors that this agent has logged, one line each.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.log();
        let own = log.get(self.log_start..).unwrap_or_default().lines();
        own.filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).map(str::to_owned).collect()
    }

    /// Sends SIGSTOP: the agent does nothing until [`Agent::thaw`]. The kernel still acknowledges data on its sockets.
    pub(crate) fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).expect("the agent runs until it is stopped");
    }

    /// Lets a frozen agent continue.
    pub(crate) fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).expect("the agent runs until it is stopped");
    }

    /// The log of this agent and of the earlier agents on this proxy.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log_file).unwrap_or_default()
    }

    /// The status file: a `List` of every forward, and the result of each file of the folder.
    pub(crate) fn report(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(&self.status_file).ok()?).ok()
    }

    /// The forward `namespace/name` with its status, if the report contains it.
    pub(crate) fn forward(&self, key: &str) -> Option<Value> {
        let named = |item: &&Value| {
            let part = |field: &str| item["metadata"][field].as_str().unwrap_or_default();
            format!("{}/{}", part("namespace"), part("name")) == key
        };
        self.report()?["items"].as_array()?.iter().find(named).cloned()
    }

    /// Every forward of the report with its generation.
    pub(crate) fn generations(&self) -> Vec<(String, i64)> {
        let report = self.report().unwrap_or_default();
        let generation =
            |item: &Value| Some((item["metadata"]["name"].as_str()?.to_owned(), item["metadata"]["generation"].as_i64()?));
        report["items"].as_array().into_iter().flatten().filter_map(generation).collect()
    }

    /// The error in the report for a file of the folder, if there is one.
    pub(crate) fn file_error(&self, file: &str) -> Option<String> {
        let report = self.report()?;
        let entry = report["files"].as_array()?.iter().find(|entry| {
            entry["path"].as_str().is_some_and(|path| Path::new(path).file_name().is_some_and(|name| name == file))
        })?;
        entry["error"].as_str().map(str::to_owned)
    }

    /// The `(status, reason)` of a condition for the current generation of the forward; `None` while the condition refers to
    /// an older one.
    pub(crate) fn condition(&self, key: &str, condition: &str) -> Option<(String, String)> {
        let forward = self.forward(key)?;
        let found = forward["status"]["conditions"].as_array()?.iter().find(|each| each["type"] == condition)?.clone();
        let text = |field: &str| found[field].as_str().map(str::to_owned);
        (found["observedGeneration"] == forward["metadata"]["generation"]).then_some((text("status")?, text("reason")?))
    }

    /// Waits until a condition has this status and reason. Otherwise panics with the report and the log.
    pub(crate) fn wait_condition(&self, key: &str, condition: &str, status: &str, reason: &str) {
        let wanted = Some((status.to_owned(), reason.to_owned()));
        if !eventually(PATIENCE, || self.condition(key, condition) == wanted) {
            self.give_up(&format!("{key} never became {condition}={status} {reason}"));
        }
    }

    /// Waits for `Ready=True` with any reason.
    pub(crate) fn wait_ready(&self, key: &str) {
        if !eventually(PATIENCE, || self.condition(key, "Ready").is_some_and(|(status, _)| status == "True")) {
            self.give_up(&format!("{key} never became ready"));
        }
    }

    /// Waits until the report contains this number of forwards and this node's own entry of each has the condition `True`. The
    /// summary is ignored: it cannot be `Ready` if the agent knows only a standby.
    pub(crate) fn wait_nodes(&self, condition: &str, forwards: usize) {
        self.wait_report(&format!("{forwards} forwards never became {condition} on this node"), |report| {
            let items = report["items"].as_array().map_or(&[][..], Vec::as_slice);
            items.len() == forwards && items.iter().all(|item| is_true_here(item, condition))
        });
    }

    /// Waits until a condition in this node's own entry has this reason.
    pub(crate) fn wait_node_reason(&self, key: &str, condition: &str, reason: &str) {
        let found = || self.forward(key).and_then(|item| Some(node_condition(&item, condition)?["reason"] == reason));
        if !eventually(PATIENCE, || found() == Some(true)) {
            self.give_up(&format!("the entry of this node for {key} never had {condition} with {reason}"));
        }
    }

    /// Waits until `holds` is true for the report.
    pub(crate) fn wait_report(&self, claim: &str, holds: impl Fn(&Value) -> bool) {
        if !eventually(PATIENCE, || self.report().is_some_and(|report| holds(&report))) {
            self.give_up(claim);
        }
    }

    /// Sends SIGTERM, as an init system does, and waits until the agent has ended.
    pub(crate) fn stop(mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).expect("the agent runs until it is stopped");
        let ended = until(PATIENCE, || self.process.try_wait().expect("a child can be waited for"));
        ended.unwrap_or_else(|| self.give_up("the agent did not end after SIGTERM"))
    }

    /// Sends SIGKILL at any moment.
    pub(crate) fn kill(mut self) {
        self.process.kill().expect("a child can be killed");
        self.process.wait().expect("a child can be waited for");
    }

    /// Waits until the log contains `text`.
    pub(crate) fn wait_log(&self, text: &str) {
        if !eventually(PATIENCE, || self.log().contains(text)) {
            self.give_up(&format!("the log never contained: {text}"));
        }
    }

    /// Sends SIGSTOP and waits until the process is stopped. It does nothing until [`resume`](Self::resume).
    pub(crate) fn pause(&self) {
        kill_process(self.pid(), Signal::STOP).expect("the agent runs until it is stopped");
        let stat = format!("/proc/{}/stat", self.id());
        let stopped =
            || fs::read_to_string(&stat).is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')));
        assert!(eventually(PATIENCE, stopped), "the agent never stopped");
    }

    /// Sends SIGCONT.
    pub(crate) fn resume(&self) {
        kill_process(self.pid(), Signal::CONT).expect("the agent runs until it is stopped");
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether the process still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.process.try_wait().expect("a child can be waited for").is_none()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    fn give_up(&self, claim: &str) -> ! {
        let report = self.report().map_or_else(|| "none".to_owned(), |report| format!("{report:#}"));
        panic!("{claim}\n--- report\n{report}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the agent\n{}", self.log());
        }
    }
}

/// A condition of the only node that an agent without an API server knows: its own.
fn node_condition<'a>(item: &'a Value, condition: &str) -> Option<&'a Value> {
    item["status"]["nodes"][0]["conditions"].as_array()?.iter().find(|each| each["type"] == condition)
}

fn is_true_here(item: &Value, condition: &str) -> bool {
    node_condition(item, condition)
        .is_some_and(|found| found["status"] == "True" && found["observedGeneration"] == item["metadata"]["generation"])
}

/// The state directory of a proxy.
pub(crate) fn state_folder(proxy: &Proxy) -> PathBuf {
    proxy.files().join("state")
}

/// A running command of the program on a proxy. It is killed when this is dropped. If the test failed, its output is shown.
#[derive(Debug)]
pub(crate) struct Running {
    process: Child,
    log_file: PathBuf,
}

impl Running {
    /// Starts the command. Its output and log are written to a file of this name.
    pub(crate) fn start(proxy: &Proxy, name: &str, arguments: &[&str]) -> Self {
        let log_file = proxy.files().join(format!("{name}.log"));
        let log = File::create(&log_file).expect("the proxy's folder can be written");
        let printed = log.try_clone().expect("a file can be shared");
        let mut command = proxy.command(PROGRAM);
        command.args(arguments).args(["--log-format", "text"]).stdout(printed).stderr(log);
        Self { process: command.spawn().expect("nsenter is installed"), log_file }
    }

    /// The output and log so far.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log_file).unwrap_or_default()
    }

    /// Waits until the output contains `text`.
    pub(crate) fn wait(&self, text: &str) {
        assert!(eventually(PATIENCE, || self.said().contains(text)), "the output never contained: {text}");
    }

    /// Whether the process still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.process.try_wait().expect("a child can be waited for").is_none()
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.process), Signal::TERM).expect("it runs until it is stopped");
        let ended = until(PATIENCE, || self.process.try_wait().expect("a child can be waited for"));
        ended.expect("it ends after SIGTERM")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log_file.display(), self.said());
        }
    }
}

/// The program on a proxy, in its own mount namespace that a shell script has changed. The script ends with `exec "$@"`.
pub(crate) fn in_mounts(proxy: &Proxy, script: &str) -> Command {
    let mut command = proxy.command("unshare");
    command.args(["--mount", "sh", "-euc", script, "sh", PROGRAM]);
    command
}

/// Runs another command of the program on a proxy, for example `["cleanup", "--iptables", "nft"]`.
pub(crate) fn operator<S: AsRef<std::ffi::OsStr>>(proxy: &Proxy, arguments: impl IntoIterator<Item = S>) -> Output {
    output(proxy.command(PROGRAM).args(arguments))
}
