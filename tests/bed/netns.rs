//! Network namespaces that belong to one test bed: created, entered, and removed with all processes in them.
//!
//! Touches only namespaces whose name shows that a test process created them: `pf-<pid>-<bed>-<host>`.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::Write as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;
use std::thread;

use rustix::process::{Pid, Signal, getpid, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps its namespaces (ip-netns(8)).
const NAMESPACES: &str = "/run/netns";

/// The prefix of the namespaces of the tests.
const PREFIX: &str = "pf-";

/// A named network namespace. It is removed with all processes in it when this is dropped.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    /// Creates the namespace `pf-<pid>-<bed>-<host>` and sets its loopback interface up.
    pub(crate) fn create(bed: u32, host: &str) -> Self {
        static LEFTOVERS: Once = Once::new();
        LEFTOVERS.call_once(remove_leftovers);
        let netns = Self { name: format!("{PREFIX}{}-{bed}-{host}", std::process::id()) };
        netns.add();
        netns
    }

    fn add(&self) {
        must(Command::new("ip").args(["netns", "add", &self.name]));
        self.ip("link set lo up");
    }

    /// Ends all processes in the namespace, and replaces it by a new one with the same name.
    pub(crate) fn recreate(&self) {
        remove(&self.name);
        self.add();
    }

    /// Removes a link if it still exists. When a namespace ends, the kernel removes the other ends of its veth pairs a little
    /// later.
    pub(crate) fn unplug(&self, link: &str) {
        let _ = output(self.command("ip").args(["link", "delete", link]));
    }

    /// The name, as `ip netns list` shows it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The file that is opened to enter the namespace.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.name)
    }

    /// Runs `task` on a new thread in the namespace. Sockets that it creates stay there.
    pub(crate) fn run<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let file = File::open(self.path()).expect("the namespace exists while its bed does");
                move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))
                    .expect("root may enter a namespace");
                task()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// A command that will run in the namespace. Unlike `ip netns exec` and `ip -n`, this keeps the mounts as they are.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program).stdin(Stdio::null());
        command
    }

    /// Runs `ip ARGUMENTS` in the namespace and returns its output. Panics if `ip` fails.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        must(self.command("ip").args(arguments.split_whitespace()))
    }

    /// Runs these lines with `ip -batch` in the namespace, all in one process.
    pub(crate) fn ip_batch(&self, lines: impl IntoIterator<Item = impl Display>) {
        let text = lines.into_iter().map(|line| line.to_string()).collect::<Vec<_>>().join("\n");
        let mut ip = self
            .command("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ip is installed");
        ip.stdin.take().expect("the input is piped").write_all(text.as_bytes()).expect("ip reads its batch");
        let output = ip.wait_with_output().expect("ip can be waited for");
        assert!(output.status.success(), "ip -batch in {}: {}\n{text}", self.name, String::from_utf8_lossy(&output.stderr));
    }

    /// Writes a setting below `/proc/sys/net`, for example `ipv4/ip_forward`, in the namespace.
    pub(crate) fn set(&self, key: &str, value: &str) {
        // /proc/sys/net shows the namespace of the thread that opens the file.
        self.run(|| fs::write(Path::new("/proc/sys/net").join(key), value))
            .unwrap_or_else(|error| panic!("net/{key} in {}: {error}", self.name));
    }

    /// Reads a setting below `/proc/sys/net` in the namespace, without white space around it.
    pub(crate) fn setting(&self, key: &str) -> String {
        self.run(|| fs::read_to_string(Path::new("/proc/sys/net").join(key)))
            .unwrap_or_else(|error| panic!("net/{key} in {}: {error}", self.name))
            .trim()
            .to_owned()
    }
}

impl Netns {
    /// The processes in the namespace.
    pub(crate) fn pids(&self) -> Vec<Pid> {
        pids(&self.name)
    }

    /// Kills every process in the namespace. Returns their number.
    pub(crate) fn kill_all(&self) -> usize {
        kill_all(&self.name)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Runs a command that must succeed and returns its output. Otherwise panics with its error output.
pub(crate) fn must(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that may fail. The caller checks the result.
pub(crate) fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; hack/prepare.sh installs what the tests need"))
}

/// Kills all processes in a namespace of the tests and removes it. Ignores errors, because it also runs while a test fails.
fn remove(name: &str) {
    kill_all(name);
    let _ = Command::new("ip").args(["netns", "delete", name]).stderr(Stdio::null()).status();
}

fn kill_all(name: &str) -> usize {
    let pids = pids(name);
    for pid in &pids {
        let _ = kill_process(*pid, Signal::KILL);
    }
    pids.len()
}

/// The processes in a namespace, without this one: a test that panicked in `run` may still have its own thread there.
fn pids(name: &str) -> Vec<Pid> {
    let Ok(listed) = Command::new("ip").args(["netns", "pids", name]).output() else { return Vec::new() };
    let listed = String::from_utf8_lossy(&listed.stdout);
    listed.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).filter(|pid| *pid != getpid()).collect()
}

/// Removes the namespaces of test processes that have ended. Those of running test processes stay.
pub(crate) fn remove_leftovers() {
    let Ok(entries) = fs::read_dir(NAMESPACES) else { return };
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let creator = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).and_then(|pid| pid.parse::<u32>().ok());
        if creator.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            remove(&name);
        }
    }
}
