//! The agent as a process on a proxy of the bed, on a folder of manifests or against an API server.

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

/// A folder of manifests, with the name of a file as its only key.
#[derive(Debug)]
pub(crate) struct Manifests {
    folder: PathBuf,
}

impl Manifests {
    /// The empty folder `manifests` among a proxy's files.
    pub(crate) fn new(proxy: &Proxy) -> Self {
        let folder = proxy.files().join("manifests");
        fs::create_dir_all(&folder).expect("the proxy's folder can be written");
        Self { folder }
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes or replaces one file at once, as a careful editor does: a new file, renamed over the old.
    pub(crate) fn put(&self, file: &str, yaml: &str) {
        // Neither the suffix nor the leading dot is a manifest's.
        let new = self.folder.join(format!(".{file}.new"));
        fs::write(&new, yaml).expect("the folder can be written");
        fs::rename(&new, self.folder.join(file)).expect("a file can be renamed in its folder");
    }

    /// Removes one file.
    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

/// How an agent is started.
#[derive(Clone, Debug)]
pub(crate) struct AgentOptions {
    /// `--iptables`.
    pub(crate) variant: Variant,
    /// `--node-name`.
    pub(crate) node_name: String,
    /// `--node-label`, each `key=value`.
    pub(crate) labels: Vec<String>,
    /// Anything else.
    pub(crate) extra: Vec<String>,
    /// What a shell does to a mount namespace of the agent's own before it becomes the agent by `exec "$@"`.
    pub(crate) mounts: Option<String>,
}

impl AgentOptions {
    /// The node `proxy` without labels.
    pub(crate) fn new(variant: Variant) -> Self {
        Self { variant, node_name: "proxy".to_owned(), labels: Vec::new(), extra: Vec::new(), mounts: None }
    }
}

/// A running agent; killed when dropped, and its log shown if the test failed.
#[derive(Debug)]
pub(crate) struct Agent {
    process: Child,
    status_file: PathBuf,
    log_file: PathBuf,
    /// Where in it this agent's own lines begin, in bytes.
    log_start: usize,
}

impl Agent {
    /// Starts the agent on a proxy; state and status lie among the proxy's files and outlive it.
    pub(crate) fn start(proxy: &Proxy, manifests: &Manifests, options: &AgentOptions) -> Self {
        let status_file = proxy.files().join("status.json");
        // What an earlier agent left would be taken for this one's word.
        let _ = fs::remove_file(&status_file);
        let mut source = vec!["--manifests".into(), manifests.folder().into(), "--status-file".into(), status_file.into()];
        source.extend(options.labels.iter().flat_map(|label| ["--node-label".into(), label.into()]));
        Self::spawn(proxy, options, &source)
    }

    /// Starts the agent on a proxy against an API server, as the holder of a kubeconfig; its state lies among the
    /// proxy's files and outlives it. Its status is with the API server, and there are no labels by option.
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
        command.args(["--iptables", &options.variant.to_string(), "--log-format", "text"]);
        // nsenter becomes the agent by exec(2): the child's pid is the agent's.
        let process = command.args(&options.extra).stdout(Stdio::null()).stderr(log).spawn().expect("nsenter is installed");
        Self { process, status_file, log_file, log_start }
    }

    /// The warnings and errors that this agent has logged, one line each.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.log();
        let own = log.get(self.log_start..).unwrap_or_default().lines();
        own.filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).map(str::to_owned).collect()
    }

    /// SIGSTOP: it does nothing until [`Agent::thaw`]; its kernel still answers for its sockets.
    pub(crate) fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).expect("the agent runs until it is stopped");
    }

    /// Lets a frozen agent go on.
    pub(crate) fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).expect("the agent runs until it is stopped");
    }

    /// What the agent has logged, and the agents before it on this proxy.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log_file).unwrap_or_default()
    }

    /// The status file: a `List` of every forward and what each file of the folder said.
    pub(crate) fn report(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(&self.status_file).ok()?).ok()
    }

    /// The forward `namespace/name` with its status, once the report has it.
    pub(crate) fn forward(&self, key: &str) -> Option<Value> {
        let named = |item: &&Value| {
            let part = |field: &str| item["metadata"][field].as_str().unwrap_or_default();
            format!("{}/{}", part("namespace"), part("name")) == key
        };
        self.report()?["items"].as_array()?.iter().find(named).cloned()
    }

    /// Every forward of the report with the generation of its content.
    pub(crate) fn generations(&self) -> Vec<(String, i64)> {
        let report = self.report().unwrap_or_default();
        let generation =
            |item: &Value| Some((item["metadata"]["name"].as_str()?.to_owned(), item["metadata"]["generation"].as_i64()?));
        report["items"].as_array().into_iter().flatten().filter_map(generation).collect()
    }

    /// The error that the report gives for a file of the folder, if it gives one.
    pub(crate) fn file_error(&self, file: &str) -> Option<String> {
        let report = self.report()?;
        let entry = report["files"].as_array()?.iter().find(|entry| {
            entry["path"].as_str().is_some_and(|path| Path::new(path).file_name().is_some_and(|name| name == file))
        })?;
        entry["error"].as_str().map(str::to_owned)
    }

    /// The `(status, reason)` of a condition that judges the forward's present content; `None` while it judges an older one.
    pub(crate) fn condition(&self, key: &str, condition: &str) -> Option<(String, String)> {
        let forward = self.forward(key)?;
        let found = forward["status"]["conditions"].as_array()?.iter().find(|each| each["type"] == condition)?.clone();
        let text = |field: &str| found[field].as_str().map(str::to_owned);
        (found["observedGeneration"] == forward["metadata"]["generation"]).then_some((text("status")?, text("reason")?))
    }

    /// Waits for a condition to have this status and reason; panics with the report and the log if it does not come.
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

    /// Waits until the report has so many forwards, and of each this node's own entry has the condition `True`, whatever
    /// the summary says: it cannot be `Ready` where all that an agent knows of is a standby.
    pub(crate) fn wait_nodes(&self, condition: &str, forwards: usize) {
        self.wait_report(&format!("{forwards} forwards never became {condition} on this node"), |report| {
            let items = report["items"].as_array().map_or(&[][..], Vec::as_slice);
            items.len() == forwards && items.iter().all(|item| is_true_here(item, condition))
        });
    }

    /// Waits until this node's own entry gives a condition this reason.
    pub(crate) fn wait_node_reason(&self, key: &str, condition: &str, reason: &str) {
        let found = || self.forward(key).and_then(|item| Some(node_condition(&item, condition)?["reason"] == reason));
        if !eventually(PATIENCE, || found() == Some(true)) {
            self.give_up(&format!("this node never said {condition} {reason} of {key}"));
        }
    }

    /// Waits for the report to hold.
    pub(crate) fn wait_report(&self, claim: &str, holds: impl Fn(&Value) -> bool) {
        if !eventually(PATIENCE, || self.report().is_some_and(|report| holds(&report))) {
            self.give_up(claim);
        }
    }

    /// SIGTERM, as an init system stops it; waits for the end.
    pub(crate) fn stop(mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).expect("the agent runs until it is stopped");
        let ended = until(PATIENCE, || self.process.try_wait().expect("a child can be waited for"));
        ended.unwrap_or_else(|| self.give_up("the agent did not end after SIGTERM"))
    }

    /// SIGKILL, at whatever it was doing.
    pub(crate) fn kill(mut self) {
        self.process.kill().expect("a child can be killed");
        self.process.wait().expect("a child can be waited for");
    }

    /// Waits for a line of the log.
    pub(crate) fn wait_log(&self, text: &str) {
        if !eventually(PATIENCE, || self.log().contains(text)) {
            self.give_up(&format!("the log never said: {text}"));
        }
    }

    /// SIGSTOP: it holds what it has and does nothing until [`resume`](Self::resume).
    pub(crate) fn pause(&self) {
        kill_process(self.pid(), Signal::STOP).expect("the agent runs until it is stopped");
        let stat = format!("/proc/{}/stat", self.id());
        let stopped =
            || fs::read_to_string(&stat).is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')));
        assert!(eventually(PATIENCE, stopped), "the agent never stopped");
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        kill_process(self.pid(), Signal::CONT).expect("the agent runs until it is stopped");
    }

    /// Its process, as others name it.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it still runs.
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

/// A condition of the one node that an agent without an API server knows: its own.
fn node_condition<'a>(item: &'a Value, condition: &str) -> Option<&'a Value> {
    item["status"]["nodes"][0]["conditions"].as_array()?.iter().find(|each| each["type"] == condition)
}

fn is_true_here(item: &Value, condition: &str) -> bool {
    node_condition(item, condition)
        .is_some_and(|found| found["status"] == "True" && found["observedGeneration"] == item["metadata"]["generation"])
}

/// Where the record of a proxy lies.
pub(crate) fn state_folder(proxy: &Proxy) -> PathBuf {
    proxy.files().join("state")
}

/// A command of the program on a proxy that stays until it is stopped; killed when dropped, and its words shown if the
/// test failed.
#[derive(Debug)]
pub(crate) struct Running {
    process: Child,
    log_file: PathBuf,
}

impl Running {
    /// Starts it; what it prints and logs goes to a file of this name.
    pub(crate) fn start(proxy: &Proxy, name: &str, arguments: &[&str]) -> Self {
        let log_file = proxy.files().join(format!("{name}.log"));
        let log = File::create(&log_file).expect("the proxy's folder can be written");
        let printed = log.try_clone().expect("a file can be shared");
        let mut command = proxy.command(PROGRAM);
        command.args(arguments).args(["--log-format", "text"]).stdout(printed).stderr(log);
        Self { process: command.spawn().expect("nsenter is installed"), log_file }
    }

    /// What it has printed and logged.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log_file).unwrap_or_default()
    }

    /// Waits until it has said something.
    pub(crate) fn wait(&self, text: &str) {
        assert!(eventually(PATIENCE, || self.said().contains(text)), "never said: {text}");
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.process.try_wait().expect("a child can be waited for").is_none()
    }

    /// SIGTERM; waits for the end.
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

/// The program on a proxy, in a mount namespace of its own that a shell script has changed; it ends in `exec "$@"`.
pub(crate) fn in_mounts(proxy: &Proxy, script: &str) -> Command {
    let mut command = proxy.command("unshare");
    command.args(["--mount", "sh", "-euc", script, "sh", PROGRAM]);
    command
}

/// Runs another command of the program on a proxy, such as `["cleanup", "--iptables", "nft"]`.
pub(crate) fn operator<S: AsRef<std::ffi::OsStr>>(proxy: &Proxy, arguments: impl IntoIterator<Item = S>) -> Output {
    output(proxy.command(PROGRAM).args(arguments))
}
